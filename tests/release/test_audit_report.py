"""What an audit's report makes of repeats whose truth is known."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.special import expit, logit

from busi_search.release.audit_report import AuditReport, Repeat, outer_estimates
from busi_search.release.delong import delong_interval
from busi_search.release.selection import Estimate
from busi_search.training.metrics import binary_auc

TRUE = 0.85


def _estimate(value: float, error: float, naive: float | None = None) -> Estimate:
    return Estimate(
        value, value - 1.96 * error, value + 1.96 * error, value if naive is None else naive
    )


def _repeat(number: int, corrected: Estimate, outer: Estimate) -> Repeat:
    return Repeat(number, 400, 100, 90, 10, 3, corrected, outer, outer, 0.0)


def _report(repeats: list[Repeat], parts: int = 5) -> AuditReport:
    return AuditReport("study", "cv_auc", 10, parts, "New images.", tuple(repeats))


def _simulated(bias: float, num_repeats: int = 4000, optimism: float = 0.02) -> AuditReport:
    """Repeats whose promise is ``bias`` too high, with errors of .02 inside and .03 outside."""
    rng = np.random.default_rng(1)
    promised = TRUE + bias + rng.normal(0, 0.02, num_repeats)
    outer = TRUE + rng.normal(0, 0.03, num_repeats)
    return _report(
        [
            _repeat(i, _estimate(p, 0.02, p + optimism), _estimate(o, 0.03))
            for i, (p, o) in enumerate(zip(promised, outer, strict=True))
        ]
    )


def test_a_right_promise_is_found_to_be_right() -> None:
    report = _simulated(0.0)
    share_held = report.num_held / len(report.repeats)
    assert share_held == pytest.approx(report.expected_share, abs=0.03)
    # 1.96 × .02 against a spread of sqrt(.02² + .03²).
    assert report.expected_share == pytest.approx(
        math.erf(1.96 * 0.02 / 0.036056 / 2**0.5), abs=1e-3
    )
    assert report.num_agree / len(report.repeats) == pytest.approx(0.95, abs=0.015)
    low, high = report.corrected_bias.ci95
    assert low < 0 < high
    assert report.found_bias.mean == pytest.approx(0.02, abs=0.004)
    assert report.corrected_bias.spread == pytest.approx(0.036, abs=0.003)


def test_a_promise_that_is_too_high_is_found_out() -> None:
    report = _simulated(0.04)
    assert report.corrected_bias.mean == pytest.approx(0.04, abs=0.004)
    assert report.corrected_bias.ci95[0] > 0
    assert report.num_held / len(report.repeats) < report.expected_share - 0.1
    assert report.num_agree / len(report.repeats) < 0.9


def test_the_interval_of_the_bias_is_that_of_whole_rounds() -> None:
    differences = [0.1, -0.1, 0.3, -0.1, 0.1, 0.2]
    repeats = [
        _repeat(i, _estimate(TRUE + d, 0.02), _estimate(TRUE, 0.03))
        for i, d in enumerate(differences)
    ]
    found = _report(repeats, parts=2).corrected_bias
    # Rounds of 0, .1 and .15: Student's quantile with two degrees of freedom is 4.303.
    middle, width = 0.25 / 3, 4.3027 * np.std([0, 0.1, 0.15], ddof=1) / 3**0.5
    assert found.ci95 == pytest.approx((middle - width, middle + width), abs=1e-4)
    assert found.mean == pytest.approx(np.mean(differences))
    assert all(map(math.isnan, _report(repeats[:3], parts=2).corrected_bias.ci95))


def test_a_repeat_and_a_report_survive_json() -> None:
    repeat = _repeat(3, _estimate(0.8, 0.02, 0.83), _estimate(0.7, 0.03))
    assert Repeat.from_json(json.loads(json.dumps(repeat.to_json()))) == repeat
    assert not repeat.held
    unknown = replace(repeat, outer=Estimate(0.7, math.nan, math.nan, 0.7))
    written = json.dumps(_report([unknown]).to_json(), allow_nan=False)
    assert json.loads(written)["corrected"]["bias"]["ci95"] == [None, None]
    assert "naive" not in json.loads(written)["repeats"][0]["outer"]


def test_the_outer_figure_is_the_mean_over_models_and_its_interval_knows_of_groups() -> None:
    rng = np.random.default_rng(2)
    labels = (np.arange(240) % 3 == 0).astype(np.int64)
    shared = 1.4 * labels + rng.normal(size=240)
    scores = expit(shared + 0.3 * rng.normal(size=(4, 240)))
    models = np.stack([1 - scores, scores], axis=2)
    own = np.arange(240)
    settings = {"metric": "auc", "positive": 1, "seed": 0}
    mean, ensemble = outer_estimates(models, labels, own, **settings)
    each = [binary_auc(row, labels == 1) for row in scores]
    assert mean.value == pytest.approx(np.mean(each))
    assert ensemble.value == pytest.approx(binary_auc(logit(scores).mean(axis=0), labels == 1))
    # The jackknife agrees with DeLong's interval, which is another formula.
    low, high = delong_interval(models.mean(axis=0), labels, own, positive=1)
    assert ensemble.high - ensemble.low == pytest.approx(high - low, rel=0.15)
    # The four models answer the same images: together they know little more than one.
    assert mean.high - mean.low == pytest.approx(high - low, rel=0.2)
    # Each image twice: no narrower.
    twice = outer_estimates(
        np.tile(models, (1, 2, 1)), np.tile(labels, 2), np.tile(own, 2), **settings
    )[0]
    assert twice.high - twice.low == pytest.approx(mean.high - mean.low, rel=0.1)
