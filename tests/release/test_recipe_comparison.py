"""The winner beside a known system: its luck is taken off, its lead is not."""

import numpy as np
import pytest

from busi_search.release.recipe_comparison import CorrectedDifference, corrected_differences
from busi_search.training.weighted_metrics import weighted_metric

NUM_FOLDS = 3
FOLDS = np.arange(150) % NUM_FOLDS
LABELS = (np.arange(150) // NUM_FOLDS) % 2


def _search(seed: int, *, num_trials: int = 13, lead: float = 0.0) -> np.ndarray:
    """(T, 150, 2) predictions; row 0 is the known system, which the others lead by ``lead``."""
    rng = np.random.default_rng(seed)
    signal = np.full(num_trials, 1.5) + lead * (np.arange(num_trials) > 0)
    scores = signal[:, None] * LABELS + rng.normal(size=150) + rng.normal(size=(num_trials, 150))
    positive = 1 / (1 + np.exp(-scores))
    return np.stack([1 - positive, positive], axis=2)


def _fold_mean(rows: np.ndarray, metric: str, folds: tuple[int, ...]) -> float:
    within = [np.flatnonzero(fold == FOLDS) for fold in folds]
    one = np.ones((1, 50))
    return float(np.mean([weighted_metric(metric, rows[i], LABELS[i], one) for i in within]))


def _compare(
    rows: np.ndarray, winner: int, metric: str = "auc", finished: tuple[int, ...] = (0, 1, 2)
) -> CorrectedDifference:
    return corrected_differences(
        LABELS, rows, winner=winner, recipes={0: np.array(finished)}, groups=np.arange(150) // 2,
        folds=FOLDS, metric=metric, num_bootstraps=60, seed=3,
    )[0]  # fmt: skip


def test_a_winner_among_equals_is_rarely_said_to_be_better() -> None:
    found = []
    for seed in range(100):
        rows = _search(seed)
        best = max(range(13), key=lambda trial: _fold_mean(rows[trial], "auc", (0, 1, 2)))
        if best > 0:
            found.append(_compare(rows, best))
    assert len(found) > 80
    assert np.mean([one.naive for one in found]) > 0.03
    assert abs(np.mean([one.value for one in found])) < 0.015
    assert np.mean([one.p_value < 0.05 for one in found]) <= 0.1
    assert np.mean([one.low <= 0 <= one.high for one in found]) >= 0.9
    # As if nobody had chosen, the interval would lie above zero in a quarter of the searches.
    assert np.mean([one.naive > one.value - one.low for one in found]) > 0.15


@pytest.mark.parametrize(("metric", "sign"), [("auc", 1), ("log_loss", -1)])
def test_a_true_lead_is_seen_whichever_way_the_metric_goes(metric: str, sign: int) -> None:
    rows = _search(0, num_trials=3, lead=2.5)
    winner = max((1, 2), key=lambda trial: sign * _fold_mean(rows[trial], metric, (0, 1, 2)))
    found = _compare(rows, winner, metric)
    whole = [sign * _fold_mean(rows[trial], metric, (0, 1, 2)) for trial in (winner, 0)]
    assert found.naive == pytest.approx(whole[0] - whole[1])
    assert 0 < found.low < found.value < found.high
    assert found.value == pytest.approx(found.naive, rel=0.25)
    assert found.p_value < 0.05


def test_a_system_that_was_given_up_is_compared_on_the_folds_that_it_finished() -> None:
    rows = _search(1)
    rows[0, FOLDS != 1] = np.nan
    winner = max(range(1, 13), key=lambda trial: _fold_mean(rows[trial], "auc", (0, 1, 2)))
    found = _compare(rows, winner, finished=(1,))
    both = [_fold_mean(rows[trial], "auc", (1,)) for trial in (winner, 0)]
    assert found.naive == pytest.approx(both[0] - both[1])
    assert found.low < found.value < found.high
    assert found.value < found.naive
