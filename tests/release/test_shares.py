"""Shares, predictive values and net benefit against direct formulas, and their intervals."""

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit

from benchmarks.external import Hospital, simulate
from busi_search.release.calibration_figures import calibration_figures
from busi_search.release.intervals import Figure
from busi_search.release.positive_figures import at_prevalences, positive_figures
from busi_search.release.shares import mean, net_benefit, predictive_values, share


def _images(seed: int, hospital: Hospital) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return simulate(hospital, 200, np.random.default_rng(seed))


def test_figures_agree_with_direct_formulas() -> None:
    p, ill, patient = _images(0, Hospital(0.3, slope=0.7, intercept=-0.4))
    found = positive_figures(p, ill, patient, threshold=0.3)
    called = p >= 0.3
    hits, alarms = int(np.sum(called & ill)), int(np.sum(called & ~ill))
    assert found.figures["sensitivity"].value == pytest.approx(hits / ill.sum())
    assert found.figures["specificity"].value == pytest.approx(1 - alarms / (~ill).sum())
    assert found.figures["ppv"].value == pytest.approx(hits / (hits + alarms))
    spared = int(np.sum(~called & ~ill))
    assert found.figures["npv"].value == pytest.approx(spared / np.sum(~called))
    pairs = [(a > b) + 0.5 * (a == b) for a in p[ill] for b in p[~ill]]
    assert found.figures["auc"].value == pytest.approx(np.mean(pairs))
    assert found.figures["observed_expected"].value == pytest.approx(ill.mean() / p.mean())
    large = brentq(lambda c: np.sum(ill - expit(logit(p) + c)), -9, 9)
    assert found.figures["calibration_intercept"].value == pytest.approx(large, abs=1e-6)
    a, b = 0.0, 1.0
    for _ in range(30):
        fitted = expit(a + b * logit(p))
        w, x = fitted * (1 - fitted), logit(p)
        matrix = [[w.sum(), w @ x], [w @ x, w @ (x * x)]]
        step = np.linalg.solve(matrix, [np.sum(ill - fitted), (ill - fitted) @ x])
        a, b = a + step[0], b + step[1]
    assert found.figures["calibration_slope"].value == pytest.approx(b, abs=1e-5)


def test_predictive_values_follow_bayes() -> None:
    sensitivity, specificity = Figure(0.9, (0.8, 0.95)), Figure(0.8, (0.7, 0.9))
    found = predictive_values(sensitivity, specificity, 0.02)
    assert found["ppv"].value == pytest.approx(0.9 * 0.02 / (0.9 * 0.02 + 0.2 * 0.98))
    assert found["npv"].value == pytest.approx(0.8 * 0.98 / (0.8 * 0.98 + 0.1 * 0.02))
    for name in ("ppv", "npv"):
        low, high = found[name].ci95
        assert low < found[name].value < high
    perfect = predictive_values(Figure(1.0, (0.9, 1.0)), Figure(1.0, (0.95, 1.0)), 0.02)
    assert perfect["ppv"].value == 1
    assert 0 < perfect["ppv"].ci95[0] < 1
    assert perfect["ppv"].ci95[1] == 1


def test_net_benefit_agrees_with_a_count() -> None:
    p, ill, patient = _images(1, Hospital(0.3))
    for row in net_benefit(p, ill, patient, (0.1, 0.25)):
        threshold = row["threshold"]
        assert isinstance(threshold, float)
        odds = threshold / (1 - threshold)
        count = sum(1 if y else -odds for q, y in zip(p, ill, strict=True) if q >= threshold)
        model, everyone = row["model"], row["treat_all"]
        assert isinstance(model, Figure)
        assert isinstance(everyone, Figure)
        assert model.value == pytest.approx(count / len(p))
        assert everyone.value == pytest.approx(ill.mean() - odds * (1 - ill.mean()))


def test_a_share_of_all_has_an_interval_and_copies_do_not_narrow_it() -> None:
    right, single = np.ones(20, dtype=bool), np.arange(20)
    low, high = share(right, single).ci95
    assert (0.8 < low < 0.9, high) == (True, 1.0)
    assert share(np.repeat(right, 3), np.repeat(single, 3)).ci95[0] == pytest.approx(low)
    mixed = np.arange(20) < 15
    once = share(mixed, single)
    copied = share(np.repeat(mixed, 3), np.repeat(single, 3))
    assert copied.ci95 == pytest.approx(once.ci95, abs=0.01)
    assert np.isnan(share(right[:0], single[:0]).value)


def test_small_parts_say_what_they_cannot_say() -> None:
    p, ill, patient = _images(2, Hospital(0.3))
    few = np.isin(patient, np.concatenate([np.unique(patient[ill])[:4], np.unique(patient[~ill])]))
    found = positive_figures(p[few], ill[few], patient[few], threshold=0.3)
    assert np.isfinite(found.figures["specificity"].value)
    assert np.isnan(found.figures["sensitivity"].value)
    assert found.remark == "Only 4 positive, so only the specificity is given."
    assert found.to_json()["sensitivity"] is None
    assert found.to_json()["auc_ci95"] == [None, None]
    stated = at_prevalences(found.figures, [0.1])
    assert stated[0]["ppv"] is None


def test_intervals_cover_what_is_true_of_shifted_hospitals() -> None:
    """A few hundred hospitals; the benchmark has more of them, and every figure."""
    hospital = Hospital(0.2, slope=0.6, intercept=-0.8)
    p, ill, _ = simulate(hospital, 300_000, np.random.default_rng(9))
    acted = np.where(p >= 0.2, np.where(ill, 1.0, -0.25), 0.0)
    inside = []
    for seed in range(300):
        q, sick, patient = _images(seed, hospital)
        sensitivity = share((q >= 0.3)[sick], patient[sick])
        benefit = mean(np.where(q >= 0.2, np.where(sick, 1.0, -0.25), 0.0), patient)
        true = ((p >= 0.3)[ill].mean(), acted.mean())
        inside.append(
            [f.ci95[0] <= t <= f.ci95[1] for f, t in zip((sensitivity, benefit), true, strict=True)]
        )
    # 300 hospitals: a share of .95 has an error of .013.
    assert np.all(np.abs(np.mean(inside, axis=0) - 0.95) < 0.04)


def test_slope_and_intercept_of_a_known_shift_are_recovered() -> None:
    hospital = Hospital(0.3, slope=0.6, intercept=-0.8)
    p, ill, patient = simulate(hospital, 4000, np.random.default_rng(4))
    right, sick, _ = simulate(Hospital(0.3), 4000, np.random.default_rng(4))
    found, calibrated = (
        calibration_figures(rows, truth, patient) for rows, truth in ((p, ill), (right, sick))
    )
    # The same images: their logit was divided by 0.6.
    slope = calibrated["calibration_slope"].value
    assert found["calibration_slope"].value == pytest.approx(0.6 * slope, abs=1e-3)
    assert slope == pytest.approx(1.0, abs=0.1)
    assert found["calibration_slope"].ci95[1] < 1
