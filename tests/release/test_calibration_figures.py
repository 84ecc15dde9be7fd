"""Calibration figures against independent references, and as simulations whose truth is known."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from busi_search.release.calibration import (
    apply_temperature,
    cross_fitted_probabilities,
    fit_temperature,
)
from busi_search.release.calibration_figures import (
    CALIBRATION_FIGURES,
    beyond_calibration_limit,
    binned_error_if_calibrated,
    calibration_curve,
    calibration_error,
    calibration_figures,
)
from busi_search.release.figures import WITH_INTERVALS, TestFigures, compute_test_figures
from busi_search.release.intervals import with_intervals
from busi_search.training.metrics import expected_calibration_error


def _draw(
    num_images: int, seed: int, *, shift: float = 0.0, stretch: float = 1.0, twins: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, truth and groups of a model whose log odds are shifted and stretched."""
    rng = np.random.default_rng(seed)
    groups = np.arange(num_images) // twins
    odds = rng.normal(-0.8, 1.6, num_images)[groups]
    truth = rng.random(num_images)[groups] < expit(odds)
    return expit(shift + stretch * odds), truth, groups


def test_slope_and_intercept_against_scikit_learn_and_a_sum() -> None:
    scores, truth, groups = _draw(200, 0, shift=0.5, stretch=2.0)
    found = calibration_figures(scores, truth, groups)
    model = LogisticRegression(C=1e12, tol=1e-10).fit(logit(scores)[:, None], truth)
    assert found["calibration_slope"].value == pytest.approx(model.coef_[0, 0], rel=1e-3)
    # With the intercept added, probabilities are right on average.
    intercept = found["calibration_intercept"].value
    assert expit(logit(scores) + intercept).mean() == pytest.approx(truth.mean())
    assert found["observed_expected"].value == pytest.approx(truth.mean() / scores.mean())


def test_the_error_is_a_mean_over_pairs_of_different_groups() -> None:
    scores, truth, groups = _draw(60, 1, twins=2)
    bins = np.searchsorted(np.quantile(scores, [0.2, 0.4, 0.6, 0.8]), scores, side="right")
    total = 0.0
    for index in range(5):
        inside = np.flatnonzero(bins == index)
        products = [
            (truth[i] - scores[i]) * (truth[j] - scores[j])
            for i in inside
            for j in inside
            if groups[i] != groups[j]
        ]
        total += len(inside) / 60 * np.mean(products)
    expected = np.sign(total) * abs(total) ** 0.5
    assert calibration_error(scores, truth, groups) == pytest.approx(expected)


@pytest.mark.parametrize("twins", [1, 2])
def test_the_error_of_a_perfectly_calibrated_model_is_zero_on_average(twins: int) -> None:
    squares, binned, promised = [], [], []
    for seed in range(300):
        scores, truth, groups = _draw(60, seed, twins=twins)
        error = calibration_error(scores, truth, groups)
        squares.append(np.sign(error) * error**2)
        rows = np.stack([1 - scores, scores], axis=1)
        binned.append(expected_calibration_error(rows, truth.astype(int)))
        promised.append(binned_error_if_calibrated(rows.max(axis=1), groups))
    spread = np.std(squares) / len(squares) ** 0.5
    assert abs(np.mean(squares)) < 3 * spread
    assert spread < 0.002
    # The binned one is far above, and as much as was promised.
    assert np.mean(binned) > 0.1
    assert np.mean(promised) == pytest.approx(np.mean(binned), abs=0.006)


def test_the_error_of_a_miscalibrated_model_is_found() -> None:
    found = [calibration_error(*_draw(120, seed, shift=0.7)) for seed in range(100)]
    assert np.mean(found) == pytest.approx(0.127, abs=0.03)


def test_intervals_hold_the_truth_and_always_their_own_estimate() -> None:
    held = []
    for seed in range(150):
        found = calibration_figures(*_draw(100, seed, stretch=2.0, twins=2))
        for figure in found.values():
            low, high = figure.ci95
            assert low <= figure.value <= high
        low, high = found["calibration_slope"].ci95
        held.append(low <= 0.5 <= high)
    assert 0.88 <= np.mean(held) <= 0.99


def test_copies_of_images_widen_the_intervals() -> None:
    scores, truth, groups = _draw(80, 0)
    copied = [np.tile(rows, 4) for rows in (scores, truth, groups)]
    once, twice = calibration_figures(scores, truth, groups), calibration_figures(*copied)
    for name in CALIBRATION_FIGURES[:3]:
        assert twice[name].value == pytest.approx(once[name].value, rel=1e-4)
        assert twice[name].ci95 == pytest.approx(once[name].ci95, rel=1e-3)


@pytest.mark.parametrize(
    ("scores", "truth", "unknown"),
    [
        (
            [0.1, 0.2, 0.8, 0.9],
            [False, False, True, True],
            {"calibration_slope", "calibration_error"},
        ),
        ([0.3, 0.3, 0.3, 0.3], [False, True, True, False], {"calibration_slope"}),
        ([0.1, 0.2, 0.8, 0.9], [False] * 4, set(CALIBRATION_FIGURES)),
    ],
)
def test_what_the_images_do_not_say_is_unknown(
    scores: list[float], truth: list[bool], unknown: set[str]
) -> None:
    found = calibration_figures(np.array(scores), np.array(truth), np.arange(4))
    assert {name for name, figure in found.items() if np.isnan(figure.value)} == unknown
    written = with_intervals(found)
    assert {name for name in found if written[name] is None} == unknown
    assert all(f"{found[name]:.2f}" == "–" for name in unknown)


def test_equal_probabilities_share_a_bin() -> None:
    """Sorted by class, as folders are: bins that cut equal probabilities would see an error."""
    truth = np.repeat([False, True], [70, 30])
    scores = np.full(100, 0.3)
    assert abs(calibration_error(scores, truth, np.arange(100))) < 0.06
    (only,) = calibration_curve(scores, truth, np.arange(100))
    assert only["observed"] == pytest.approx(0.3)
    # Wilson's interval, as in Brown, Cai and DasGupta 2001.
    assert (only["low"], only["high"]) == pytest.approx((0.2189, 0.3958), abs=1e-3)
    (grouped,) = calibration_curve(scores, truth, np.arange(100) // 10)
    assert grouped["high"] - grouped["low"] > 2 * (only["high"] - only["low"])


def _test_figures(num_images: int, seed: int) -> TestFigures:
    scores, truth, groups = _draw(num_images, seed)
    rows = np.stack([1 - scores, scores], axis=1)
    return compute_test_figures(
        rows, truth.astype(int), groups, class_names=("benign", "malignant"), positive=1,
        threshold=0.5,
    )  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_every_interval_of_a_test_report_holds_its_figure(seed: int) -> None:
    figures = _test_figures(60, seed)
    printed = figures.to_json()
    for name in (*WITH_INTERVALS, *CALIBRATION_FIGURES, "sensitivity", "specificity"):
        low, high = printed[f"{name}_ci95"]
        assert low <= printed[name] <= high, name
        assert figures.figure(name).value == printed[name]
    assert sum(found["num_images"] for found in printed["calibration_curve"]) == 60
    assert 0.05 < printed["ece_if_calibrated"] < 0.2


def test_the_limit_is_on_the_error_without_its_bias() -> None:
    known = {"ece": 0.12, "calibration_error": 0.05,
             "calibration_error_low": -0.02, "calibration_error_high": 0.11}  # fmt: skip
    assert beyond_calibration_limit(known, 0.05) is None
    assert beyond_calibration_limit(known, 0.0499999) == (
        "calibration error 0.0500000 is above 0.0499999 (max_ece; 95 % interval -0.020 to 0.110 on "
        "this number of images)"
    )
    # Evaluated before there was such a figure.
    assert beyond_calibration_limit({"ece": 0.12}, 0.1) == (
        "calibration error 0.120 is above 0.100 (max_ece; of bins, which grows with noise)"
    )
    assert beyond_calibration_limit({"ece": 0.12}, 0.2) is None


def test_no_temperature_is_fitted_on_the_images_it_is_applied_to() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 90)
    rows = 3 * (rng.normal(size=(90, 3)) + 1.2 * np.eye(3)[labels])
    fold_of = np.arange(90) % 3
    found = cross_fitted_probabilities(rows, labels, fold_of)
    for fold in range(3):
        others = fold_of != fold
        temperature = fit_temperature(rows[others], labels[others])
        expected = apply_temperature(rows[~others], temperature)
        np.testing.assert_array_equal(found[~others], expected)
    # What a fold's labels are makes no difference to its own probabilities.
    changed = labels.copy()
    changed[fold_of == 0] = (labels[fold_of == 0] + 1) % 3
    again = cross_fitted_probabilities(rows, changed, fold_of)
    np.testing.assert_array_equal(again[fold_of == 0], found[fold_of == 0])
    assert not np.array_equal(again[fold_of == 1], found[fold_of == 1])


def test_a_pruned_trial_is_calibrated_on_the_folds_it_has() -> None:
    rng = np.random.default_rng(0)
    labels, rows, fold_of = rng.integers(0, 2, 60), rng.normal(size=(60, 2)), np.arange(60) % 3
    whole = cross_fitted_probabilities(rows, labels, fold_of)
    rows[fold_of == 2] = np.nan
    some = cross_fitted_probabilities(rows, labels, np.where(fold_of == 2, -1, fold_of))
    assert np.isnan(some[fold_of == 2]).all()
    assert np.isfinite(some[fold_of < 2]).all()
    assert not np.array_equal(some[fold_of == 0], whole[fold_of == 0])
    rows[fold_of == 1] = np.nan
    alone = cross_fitted_probabilities(rows, labels, fold_of)
    assert np.isfinite(alone[fold_of == 0]).all()
