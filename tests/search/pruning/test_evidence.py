from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

from busi_search.search.fold_result import FoldResult
from busi_search.search.pruning.evidence import (
    Difference,
    auc_influence,
    hoped_difference,
    paired_difference,
    weigh,
)
from busi_search.training.metrics import binary_auc, compute_metrics, softmax


def _fold(logits: np.ndarray, labels: np.ndarray, index: int = 0) -> FoldResult:
    rows = np.log(softmax(logits)).astype(np.float32)
    figures = compute_metrics(np.exp(rows.astype(float)), labels)
    return FoldResult(index, rows, figures, (0.0,), (1,), (0.5,), 0, 0.0)


def test_auc_influence_gives_the_variance_of_the_auc() -> None:
    """Against a plain bootstrap of the same images."""
    rng = np.random.default_rng(0)
    positive = np.arange(200) % 3 == 0
    scores = np.round(rng.normal(size=200) + positive, 1)
    influence = auc_influence(scores, positive)
    assert influence.sum() == pytest.approx(0, abs=1e-9)
    by_formula = np.sqrt((influence**2).sum()) / 200
    drawn = []
    for _ in range(800):
        rows = rng.integers(0, 200, 200)
        drawn.append(binary_auc(scores[rows], positive[rows]))
    assert by_formula == pytest.approx(np.std(drawn), rel=0.12)


def _searches(shift: float, seed: int, num_folds: int, metric: str) -> float:
    """Evidence against a trial whose scores are worse than the incumbent's by ``shift``."""
    rng = np.random.default_rng(seed)
    differences = []
    for index in range(num_folds):
        truth = rng.permutation(np.arange(60) % 3)
        shared = rng.normal(size=(60, 3))
        shared[np.arange(60), truth] += 1.5
        worse = shared + 0.5 * rng.normal(size=(60, 3))
        better = shared + 0.5 * rng.normal(size=(60, 3))
        worse[np.arange(60), truth] -= shift
        differences.append(
            paired_difference(
                _fold(worse, truth, index), _fold(better, truth, index), truth, np.arange(60),
                metric=metric, positive=1,
            )
        )  # fmt: skip
    return weigh(differences, 5).p_value


@pytest.mark.parametrize("metric", ["auc", "accuracy", "log_loss"])
def test_equal_trials_are_rarely_given_up_and_bad_ones_soon(metric: str) -> None:
    equal = np.array([_searches(0.0, seed, 2, metric) for seed in range(60)])
    bad = np.array([_searches(1.5, seed, 1, metric) for seed in range(20)])
    assert np.mean(equal < 0.05) <= 0.15
    assert np.mean(bad < 0.05) >= 0.9
    assert 0.35 < equal.mean() < 0.65


def test_twins_count_once() -> None:
    """Doubling every image as its own twin must not make the evidence stronger."""
    rng = np.random.default_rng(1)
    truth = np.arange(40) % 2
    one, other = rng.normal(size=(2, 40, 2))
    one[np.arange(40), truth] += 0.3
    other[np.arange(40), truth] += 1.0
    args = {"metric": "auc", "positive": 1}
    single = paired_difference(_fold(one, truth), _fold(other, truth), truth, np.arange(40), **args)
    doubled_truth = np.tile(truth, 2)
    doubled = paired_difference(
        _fold(np.tile(one, (2, 1)), doubled_truth),
        _fold(np.tile(other, (2, 1)), doubled_truth),
        doubled_truth, np.tile(np.arange(40), 2), **args,
    )  # fmt: skip
    assert doubled == pytest.approx(single)


def test_identical_predictions_are_no_evidence() -> None:
    truth = np.arange(30) % 3
    fold = _fold(np.random.default_rng(0).normal(size=(30, 3)), truth)
    same = paired_difference(fold, fold, truth, np.arange(30), metric="auc", positive=1)
    evidence = weigh([same], 5)
    assert evidence.p_value == evidence.overtaking_index == 1.0


def test_the_index_is_forgiving_after_one_fold_and_decisive_when_one_is_left() -> None:
    """The same shortfall, in standard errors, weighs more the fewer folds can make up for it."""
    rng = np.random.default_rng(0)
    truth = rng.permutation(np.arange(80) % 2)
    one, other = rng.normal(size=(2, 80, 2))
    one[np.arange(80), truth] += 0.9
    other[np.arange(80), truth] += 1.0
    every = paired_difference(
        _fold(one, truth), _fold(other, truth), truth, np.arange(80), metric="auc", positive=1
    )
    found = [weigh([every] * k, 5) for k in (1, 4)]
    for done, evidence in zip((1, 4), found, strict=True):
        assert evidence.difference < 0
        z = evidence.difference / evidence.standard_error
        assert evidence.p_value == pytest.approx(norm.cdf(z))
        assert evidence.overtaking_index == pytest.approx(norm.cdf(z / np.sqrt(1 - done / 5)))
    assert found[1].overtaking_index < found[0].overtaking_index < 0.5


def test_a_fold_under_way_is_hoped_to_end_above_the_worst_the_best_trial_still_had_before_it() -> (
    None
):
    rng = np.random.default_rng(2)
    truth = np.arange(100) % 2
    logits = rng.normal(size=(100, 2))
    logits[np.arange(100), truth] += 1.0
    fold = _fold(logits, truth)
    best = replace(fold, val_epochs=(2, 4, 6, 8), val_auc=(0.6, 0.9, 0.7, 0.85))
    influence = auc_influence(best.log_probabilities[:, 1], truth == 1)
    variance = np.mean(influence**2) / 100
    looks = (0.5, 0.66, 0.64)
    half = hoped_difference(looks, best, 0.5, truth, best_epochs=8, positive=1)
    assert half == pytest.approx((0.66 - 0.7, variance))
    late = hoped_difference(looks, best, 0.8, truth, best_epochs=8, positive=1)
    assert late == pytest.approx((0.66 - 0.85, variance))
    assert hoped_difference(looks, best, 0.2, truth, best_epochs=8, positive=1) is None


def test_a_fold_under_way_counts_in_the_mean_but_is_still_to_come() -> None:
    """After one fold at -.03 ± .02, a second that can only come to -.05 ± .04."""
    done, hoped = Difference(-0.03, 0.02**2), Difference(-0.05, 0.04**2)
    evidence = weigh([done], 5, hoped=hoped)
    error = np.hypot(0.02, 0.04) / 2
    assert evidence.difference == pytest.approx(-0.04)
    assert evidence.standard_error == pytest.approx(error)
    assert evidence.overtaking_index == pytest.approx(
        norm.cdf(-0.04 / (error * np.sqrt(1 - 1 / 5)))
    )
    # Hope for the last fold leaves room for doubt; the finished last fold does not.
    assert 0 < weigh([done] * 4, 5, hoped=hoped).overtaking_index < 0.2
    assert weigh([done] * 5, 5).overtaking_index == 0.0
