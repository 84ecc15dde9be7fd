import copy

import numpy as np
import pytest
from optuna.trial import TrialState

from busi_search.release import winner
from busi_search.release.choice import choose_trial
from busi_search.release.pruned_trials import fill_pruned
from busi_search.release.selection import (
    Estimate,
    bias_corrected_estimate,
    bias_corrected_estimates,
)
from busi_search.report.study_result import StudyResult
from busi_search.search.store.fold_records import fold_key
from busi_search.search.store.open import find_study
from busi_search.training.metrics import compute_metrics, softmax
from busi_search.training.weighted_metrics import leave_part_out_weights


def _search(
    num_trials: int, num_images: int, spread: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Trials that are all equally good, but for luck."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(num_images) % 2)
    logits = np.zeros((num_trials, num_images, 2))
    logits[:, :, 1] = labels * 1.2 + spread * rng.normal(size=(num_trials, num_images))
    logits[:, :, 1] += rng.normal(size=num_images)
    return labels, softmax(logits)


def test_the_naive_best_flatters_itself_and_the_correction_takes_it_back() -> None:
    naive, corrected, honest = [], [], []
    for seed in range(40):
        labels, probabilities = _search(40, 150, 1.5, seed)
        estimate = bias_corrected_estimate(labels, probabilities, num_bootstraps=100, seed=seed)
        naive.append(estimate.naive)
        corrected.append(estimate.value)
        own = [compute_metrics(rows, labels)["auc"] for rows in probabilities]
        assert estimate.naive == pytest.approx(max(own))
        honest.append(np.mean(own))
        assert estimate.low < estimate.value < estimate.high
    assert np.mean(naive) > np.mean(honest) + 0.05
    assert np.mean(corrected) == pytest.approx(np.mean(honest), abs=0.02)


def test_one_trial_needs_no_correction() -> None:
    labels, probabilities = _search(1, 100, 1.0, 0)
    estimate = bias_corrected_estimate(labels, probabilities, num_bootstraps=50)
    assert estimate.value == estimate.naive


def test_twins_widen_the_interval() -> None:
    labels, probabilities = _search(3, 80, 1.0, 0)
    twice = np.tile(probabilities, (1, 4, 1))
    groups = np.tile(np.arange(80), 4)
    apart = bias_corrected_estimate(np.tile(labels, 4), twice, num_bootstraps=300)
    together = bias_corrected_estimate(np.tile(labels, 4), twice, groups=groups, num_bootstraps=300)
    assert (together.high - together.low) > 1.5 * (apart.high - apart.low)


def test_a_minimised_metric_chooses_the_smallest() -> None:
    labels, probabilities = _search(5, 100, 1.0, 0)
    estimate = bias_corrected_estimate(labels, probabilities, metric="log_loss", num_bootstraps=50)
    own = [compute_metrics(rows, labels)["log_loss"] for rows in probabilities]
    assert estimate.naive == pytest.approx(min(own))


def test_folds_give_the_mean_over_folds() -> None:
    labels, probabilities = _search(4, 100, 1.0, 0)
    folds = np.arange(100) // 2 % 5
    estimate = bias_corrected_estimate(labels, probabilities, folds=folds, num_bootstraps=20)
    own = [
        np.mean([compute_metrics(r[folds == f], labels[folds == f])["auc"] for f in range(5)])
        for r in probabilities
    ]
    assert estimate.naive == pytest.approx(max(own))


def _decided(correct: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probabilities (T, N, 2) of trials that are right where ``correct`` (T, N) says so."""
    return np.eye(2)[np.where(correct, labels, 1 - labels)]


def test_the_choice_is_scored_on_the_images_it_did_not_see() -> None:
    """Against plain loops: for an accuracy, the pseudo-value is the mean of those left out."""
    rng = np.random.default_rng(0)
    labels = np.arange(100) % 2
    correct = rng.random((8, 100)) < 0.7
    estimate = bias_corrected_estimate(
        labels, _decided(correct, labels), metric="accuracy", num_bootstraps=30, seed=4
    )
    kept = leave_part_out_weights(
        np.arange(100),
        strata=(labels, np.zeros(100, dtype=int)),
        num_parts=5,
        num_resamples=30,
        rng=np.random.default_rng(4),
    )
    scores = []
    for row in kept > 0:
        best = int(np.argmax(correct[:, row].mean(axis=1)))
        scores.append(correct[best, ~row].mean())
    assert estimate.value == pytest.approx(np.mean(scores))
    assert estimate.naive == correct.mean(axis=1).max()


def test_the_luck_of_a_large_group_is_taken_back() -> None:
    """Equal trials; whoever gets the one large group right wins by it."""
    labels, groups = np.arange(90) % 2, np.maximum(np.arange(90) - 29, 0)
    corrected = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        correct = (rng.random((10, 61)) < 0.7)[:, groups]
        estimate = bias_corrected_estimate(
            labels,
            _decided(correct, labels),
            groups=groups,
            metric="accuracy",
            num_bootstraps=40,
            seed=seed,
        )
        assert estimate.naive > 0.7
        corrected.append(estimate.value)
    error = np.std(corrected) / 10
    assert error < 0.015
    assert np.mean(corrected) == pytest.approx(0.7, abs=3 * error)


def test_few_images_leave_room_at_the_top() -> None:
    labels, probabilities = _search(6, 80, 0.3, 0)
    nearly = probabilities.copy()
    nearly[:, :, 1] = np.clip(0.5 + 0.3 * (labels - 0.5) + 0.2 * (nearly[:, :, 1] - 0.5), 0, 1)
    # One mistake: many resamples without it have an AUC of exactly 1.
    nearly[:, np.flatnonzero(labels == 0)[0], 1] = 0.64
    nearly[:, :, 0] = 1 - nearly[:, :, 1]
    estimate = bias_corrected_estimate(labels, nearly, num_bootstraps=100)
    assert 0.9 < estimate.low < estimate.value < estimate.high < 1 - 1e-5
    perfect = _decided(np.ones((1, 80), dtype=bool), labels)
    exact = bias_corrected_estimate(labels, perfect, num_bootstraps=100)
    assert (exact.value, exact.high) == (1.0, 1.0)
    assert exact.low == pytest.approx(0.025 ** (1 / 80))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        bias_corrected_estimate(np.zeros(3, dtype=int), np.zeros((1, 4, 2)))


def test_other_figures_follow_the_same_choice() -> None:
    labels, probabilities = _search(20, 150, 1.5, 3)
    found = bias_corrected_estimates(
        labels,
        probabilities,
        metrics=("auc", "accuracy", "ece", "log_loss"),
        select_by="auc",
        num_bootstraps=200,
    )
    own = [compute_metrics(rows, labels) for rows in probabilities]
    best = max(own, key=lambda figures: figures["auc"])
    for metric, estimate in found.items():
        assert estimate.naive == pytest.approx(best[metric])
        assert estimate.low < estimate.value < estimate.high
    assert found["auc"].value < found["auc"].naive
    # A calibration error grows when there are fewer images; the correction must not.
    others = np.mean([figures["ece"] for figures in own])
    assert found["ece"].value == pytest.approx(others, abs=0.03)


def test_the_cheapest_within_the_tolerance_is_chosen() -> None:
    scores = np.array([[0.90, 0.5], [0.89, np.nan], [0.80, 0.7]])
    assert choose_trial(scores).tolist() == [0, 2]
    costs = np.array([100.0, 10.0, 1.0])
    assert choose_trial(scores, costs, 0.02).tolist() == [1, 2]
    assert choose_trial(scores, costs, 0.2).tolist() == [2, 2]
    assert choose_trial(scores, np.array([5.0, 5.0, 9.0]), 0.02).tolist() == [0, 2]


def test_a_pruned_trial_borrows_from_one_of_the_five_nearest() -> None:
    labels, probabilities = _search(9, 100, 1.0, 0)
    folds = np.arange(100) // 2 % 5
    auc = [
        [compute_metrics(rows[folds == f], labels[folds == f])["auc"] for f in (0, 1)]
        for rows in probabilities
    ]
    known = probabilities.copy()
    known[8, folds > 1] = np.nan
    gaps = [abs(np.mean(auc[trial]) - np.mean(auc[8])) for trial in range(8)]
    lenders = set()
    for seed in range(40):
        filled = fill_pruned(
            known, labels, folds, metric="auc", positive=1, rng=np.random.default_rng(seed)
        )
        np.testing.assert_array_equal(filled[8, folds <= 1], probabilities[8, folds <= 1])
        np.testing.assert_array_equal(filled[:8], probabilities[:8])
        same = [
            np.array_equal(filled[8, folds > 1], probabilities[trial, folds > 1])
            for trial in range(8)
        ]
        assert sum(same) == 1
        lenders.add(same.index(True))
    assert lenders == set(np.argsort(gaps)[:5].tolist())


def test_a_pruned_trial_never_wins_however_lucky_its_first_fold() -> None:
    labels, probabilities = _search(3, 100, 1.0, 0)
    folds = np.arange(100) // 2 % 5
    known = probabilities.copy()
    known[2, :, 1] = labels
    known[2, :, 0] = 1 - labels
    known[2, folds > 0] = np.nan
    estimate = bias_corrected_estimate(labels, known, folds=folds, num_bootstraps=20)
    alone = bias_corrected_estimate(labels, probabilities[:2], folds=folds, num_bootstraps=20)
    assert estimate.naive == alone.naive


def test_trials_without_an_end_are_refused() -> None:
    labels, probabilities = _search(2, 50, 1.0, 0)
    folds = np.arange(50) // 2 % 5
    probabilities[:, folds == 4] = np.nan
    with pytest.raises(ValueError, match="no trial"):
        bias_corrected_estimate(labels, probabilities, folds=folds)
    probabilities[0] = 0.5
    with pytest.raises(ValueError, match="need the folds"):
        bias_corrected_estimate(labels, probabilities)


@pytest.mark.slow
def test_the_luck_of_a_race_is_corrected_too() -> None:
    """Equal trials, most given up after one fold: the survivors alone do not know how many."""
    survivors, everyone = [], []
    for seed in range(20):
        labels, probabilities = _search(40, 150, 1.5, seed)
        folds = np.arange(150) // 2 % 5
        first = [
            compute_metrics(rows[folds == 0], labels[folds == 0])["auc"] for rows in probabilities
        ]
        kept = np.argsort(first)[-5:]
        known = probabilities.copy()
        pruned = np.setdiff1d(np.arange(40), kept)
        known[np.ix_(pruned, np.flatnonzero(folds > 0))] = np.nan
        honest = np.mean(
            [
                np.mean([compute_metrics(r[folds == f], labels[folds == f])["auc"]
                         for f in range(5)])
                for r in probabilities
            ]
        )  # fmt: skip
        for found, rows in ((survivors, probabilities[kept]), (everyone, known)):
            estimate = bias_corrected_estimate(
                labels, rows, folds=folds, num_bootstraps=60, seed=seed
            )
            found.append(estimate.value - honest)
    assert np.mean(survivors) > 0.01
    assert abs(np.mean(everyone)) < 0.01


def test_a_pruned_trial_takes_part_whichever_fold_it_began_with(
    tiny_result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = tiny_result.context
    trials = find_study(context.home, context.name).get_trials()
    complete = next(trial for trial in trials if trial.state == TrialState.COMPLETE)
    pruned = copy.deepcopy(complete)
    pruned.number, pruned.state, pruned.values = 99, TrialState.PRUNED, None
    for fold in (0, 1):
        del pruned.system_attrs[f"busi:{fold_key(fold)}"]
    nothing = copy.deepcopy(pruned)
    nothing.number = 100
    del nothing.system_attrs[f"busi:{fold_key(2)}"]
    seen: list[np.ndarray] = []

    def take(_: object, probabilities: np.ndarray, **__: object) -> dict[str, Estimate]:
        seen.append(probabilities)
        return {}

    monkeypatch.setattr(winner, "bias_corrected_estimates", take)
    winner.estimate_scores(context, [complete, pruned, nothing])
    for probabilities in seen:  # as trained, and calibrated
        assert len(probabilities) == 2
        known = np.isfinite(probabilities[1, :, 0])
        np.testing.assert_array_equal(np.flatnonzero(known), context.partition.folds[2].validation)
    assert len(seen) == 2
