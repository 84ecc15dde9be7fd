"""Where a search stands: trials, folds, the best so far, the time left."""

import time
from collections import Counter
from dataclasses import dataclass, field

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.context import StudyContext
from busi_search.search.records import best_trial, folds_begun


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Attributes:
        target: finished trials asked for.
        before: finished trials when this run began.
        complete, pruned, failed, running: number of trials in each state.
        folds_trained: folds this study trained so far, of any trial, some not to their end.
        folds_saved: folds that pruning made unnecessary.
        best: the best finished trial, or None.
        elapsed_seconds: since this run began.
        remaining_seconds: estimate, or None while there is nothing to estimate from.
        workers: number of workers at work.
        trials: all trials.
        unsent: finished trials that a tracking store which does not answer is without.
    """

    target: int
    before: int
    complete: int
    pruned: int
    failed: int
    running: int
    folds_trained: int
    folds_saved: int
    best: FrozenTrial | None
    elapsed_seconds: float
    remaining_seconds: float | None
    workers: int
    trials: list[FrozenTrial] = field(repr=False, default_factory=list)
    unsent: int = 0

    @property
    def finished(self) -> int:
        """Number of trials that count towards the target."""
        return self.complete + self.pruned


def count_folds(trials: list[FrozenTrial], context: StudyContext) -> int:
    """Return how many folds of these trials were trained, some not to their end."""
    return sum(folds_begun(trial, len(context.partition.folds)) for trial in trials)


def measure_progress(
    trials: list[FrozenTrial],
    context: StudyContext,
    target: int,
    *,
    started: float,
    before: int,
    folds_before: int,
    workers: int,
) -> SearchProgress:
    """Count trials and folds, and estimate the time left from this run's pace in folds."""
    count = Counter(trial.state for trial in trials)
    num_folds = len(context.partition.folds)
    folds = Counter[TrialState]()
    for trial in trials:
        folds[trial.state] += folds_begun(trial, num_folds)
    trained, done_of_pruned = folds.total(), folds[TrialState.PRUNED]
    finished = count[TrialState.COMPLETE] + count[TrialState.PRUNED]
    elapsed = time.monotonic() - started
    remaining = None
    if trained > folds_before:
        ended = num_folds * count[TrialState.COMPLETE] + done_of_pruned
        folds_a_trial = ended / finished if finished else num_folds
        folds_left = max(0.0, target * folds_a_trial - trained)
        remaining = elapsed / (trained - folds_before) * folds_left
    return SearchProgress(
        target=target,
        before=before,
        complete=count[TrialState.COMPLETE],
        pruned=count[TrialState.PRUNED],
        failed=count[TrialState.FAIL],
        running=count[TrialState.RUNNING],
        folds_trained=trained,
        folds_saved=num_folds * count[TrialState.PRUNED] - done_of_pruned,
        best=best_trial(trials, context.spec.study.direction),
        elapsed_seconds=elapsed,
        remaining_seconds=remaining,
        workers=workers,
        trials=trials,
    )
