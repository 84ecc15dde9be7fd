"""Where a search stands: trials, folds, the best so far, the time left."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.records import FINISHED, best_trial, folds_begun

if TYPE_CHECKING:
    from busi_search.search.context import StudyContext


@dataclass(frozen=True)
class TrialCounts:
    """Trials and their folds, some not to their end, by state; the best trial."""

    trials: Counter[TrialState] = field(default_factory=Counter)
    folds: Counter[TrialState] = field(default_factory=Counter)
    best: FrozenTrial | None = None

    @property
    def finished(self) -> int:
        """Number of trials that count towards the target."""
        return sum(self.trials[state] for state in FINISHED)

    def with_these(
        self, more: Sequence[FrozenTrial], num_folds: int, direction: str
    ) -> "TrialCounts":
        """Return the counts with further trials of the study."""
        trials, folds = self.trials.copy(), self.folds.copy()
        for trial in more:
            trials[trial.state] += 1
            folds[trial.state] += folds_begun(trial, num_folds)
        rivals = [*more] if self.best is None else [self.best, *more]
        return TrialCounts(trials, folds, best_trial(rivals, direction))

    def seconds_left(self, target: int, num_folds: int, seconds_a_fold: float) -> float:
        """Return the time until the study has its trials, at a pace.

        A trial to come is taken to need as many folds as those that are finished needed.

        Args:
            target: finished trials asked for.
            num_folds: of a trial that is not given up.
            seconds_a_fold: until all workers together have trained one more fold.
        """
        ended = sum(self.folds[state] for state in FINISHED)
        folds_a_trial = ended / self.finished if self.finished else num_folds
        return seconds_a_fold * max(0.0, target * folds_a_trial - self.folds.total())


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


class ProgressMeter:
    """Measures a search again and again; what has ended is counted once, for it does not change.

    Attributes:
        before: finished trials as it began.
    """

    def __init__(self, context: "StudyContext", target: int, trials: list[FrozenTrial]) -> None:
        """Take the study, how many finished trials it shall hold, and those it has."""
        self._context = context
        self._target = target
        self._started = time.monotonic()
        # So many trials, from the first on, have ended.
        self._num_settled = 0
        self._settled = TrialCounts()
        so_far = self._count(trials)
        self._folds_before = so_far.folds.total()
        # When this run's first folds were seen, and how many there were then: what came before,
        # imports and weights to be learned, says nothing about the pace.
        self._first_seen: tuple[float, int] | None = None
        self.before = so_far.finished

    def _count(self, trials: list[FrozenTrial]) -> TrialCounts:
        num_folds = len(self._context.partition.folds)
        direction = self._context.spec.study.direction
        unsettled = trials[self._num_settled :]
        newly = list(takewhile(lambda trial: trial.state.is_finished(), unsettled))
        self._settled = self._settled.with_these(newly, num_folds, direction)
        self._num_settled += len(newly)
        return self._settled.with_these(unsettled[len(newly) :], num_folds, direction)

    def measure(
        self, trials: list[FrozenTrial], *, workers: int, unsent: int = 0
    ) -> SearchProgress:
        """Return where the search stands, and the time left by its pace in folds.

        Args:
            trials: all of the study, by number.
            workers: number of workers at work.
            unsent: finished trials that a tracking store which does not answer is without.
        """
        counts = self._count(trials)
        of_state, num_folds = counts.trials, len(self._context.partition.folds)
        trained = counts.folds.total()
        now, remaining = time.monotonic(), None
        if self._first_seen is None and trained > self._folds_before:
            self._first_seen = (now, trained)
        since, folds_then = self._first_seen or (now, trained)
        # Workers begin together, and so their first folds end together.
        if trained - folds_then >= max(1, workers):
            pace = (now - since) / (trained - folds_then)
            remaining = counts.seconds_left(self._target, num_folds, pace)
        return SearchProgress(
            target=self._target,
            before=self.before,
            complete=of_state[TrialState.COMPLETE],
            pruned=of_state[TrialState.PRUNED],
            failed=of_state[TrialState.FAIL],
            running=of_state[TrialState.RUNNING],
            folds_trained=trained,
            folds_saved=num_folds * of_state[TrialState.PRUNED] - counts.folds[TrialState.PRUNED],
            best=counts.best,
            elapsed_seconds=now - self._started,
            remaining_seconds=remaining,
            workers=workers,
            trials=trials,
            unsent=unsent,
        )
