"""Where a search stands: trials, folds, the best so far, the time left."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.expected_cost import COST_KEYS, Costs, Kind, kind_of
from busi_search.search.store.fold_records import folds_begun
from busi_search.search.store.records import EPOCHS, FINISHED, best_trial, stored_hyperparameters

if TYPE_CHECKING:
    from busi_search.search.context import StudyContext

# Correcting the winner's score, explaining images, registering and reporting took 12 to 25 s on two
# cores; training the winner again comes on top.
REPORT_SECONDS = 15.0
SEARCHING = "searching"
# Before the folds of all workers tell the pace, so many seconds of work do.
PACE_SECONDS = 10.0
# The time that is shown runs down evenly until it is off by more than this share.
TOLERANCE = 0.15


@dataclass(frozen=True)
class TrialCounts:
    """Trials and their folds, some not to their end, by state; the best trial."""

    trials: Counter[TrialState] = field(default_factory=Counter)
    folds: Counter[TrialState] = field(default_factory=Counter)
    best: FrozenTrial | None = None
    costs: Costs = field(default_factory=Costs)

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
        costs = self.costs.with_these(more, num_folds)
        return TrialCounts(trials, folds, best_trial(rivals, direction), costs)

    def seconds_left(
        self, target: int, num_folds: int, pace: float, kinds: Sequence[Kind] = ()
    ) -> float:
        """Return the time until the study has its trials, by what they are expected to cost.

        Args:
            target: finished trials asked for.
            num_folds: of a trial that is not stopped early.
            pace: seconds that pass while all workers together do one second's work of one worker.
            kinds: see :meth:`~.Costs.left`.
        """
        return pace * self.costs.left(target - self.finished, num_folds, kinds)

    def winner_seconds(self, num_folds: int) -> float:
        """Return the time after the search: the best trial is trained again, and reported."""
        if not self.costs.timed.total():
            return REPORT_SECONDS
        kind = () if self.best is None else kind_of(stored_hyperparameters(self.best))
        return REPORT_SECONDS + num_folds * self.costs.a_fold(kind)


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
        remaining_seconds: estimate until the command ends, the winner trained again and reported;
            None while there is nothing to estimate from.
        phase: what most workers are doing, such as "storing features" or "searching".
        phase_share: how much of it is done, from 0 to 1, where it is done once; else None.
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
    remaining_seconds: float | None
    workers: int
    trials: list[FrozenTrial] = field(repr=False, default_factory=list)
    unsent: int = 0
    phase: str = SEARCHING
    phase_share: float | None = None

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
        """Take the study, the total number of trials to finish, and the trials there are."""
        self._context = context
        self._target = target
        # So many trials, from the first on, have ended.
        self._num_settled = 0
        self._settled = TrialCounts()
        so_far = self._count(trials)
        # When this run's first folds were seen, and how many there were then: what came before,
        # imports and weights to be learned, says nothing about the pace.
        self._first_seen: tuple[float, TrialCounts] | None = None
        self._spent_before = so_far.costs.spent()
        self._most_running = 0
        # When the time left was last changed otherwise than by time passing, and to what.
        self._shown: tuple[float, float] | None = None
        spec = context.spec
        self._kinds = [kind_of(found.model_dump()) for found in spec.configurations(*COST_KEYS)]
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
        self,
        trials: list[FrozenTrial],
        *,
        workers: int,
        unsent: int = 0,
        search_seconds: float | None = None,
    ) -> SearchProgress:
        """Return where the search stands, and the time left by its pace and what is to come.

        Args:
            trials: all of the study, by number.
            workers: number of workers at work.
            unsent: finished trials that a tracking store which does not answer is without.
            search_seconds: time after which the search stops even if trials are missing; None: it
                does not.
        """
        counts = self._count(trials)
        of_state, num_folds = counts.trials, len(self._context.partition.folds)
        trained = counts.folds.total()
        now = time.monotonic()
        phase, share = _phase(counts)
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
            remaining_seconds=self._steady(
                now, self._remaining(now, counts, workers, search_seconds)
            ),
            workers=workers,
            trials=trials,
            unsent=unsent,
            phase=phase,
            phase_share=share,
        )

    def _remaining(
        self, now: float, counts: TrialCounts, workers: int, search_seconds: float | None
    ) -> float | None:
        """Return the time left by the pace so far and by what is to come, or None."""
        num_folds = len(self._context.partition.folds)
        if self._first_seen is None and counts.costs.spent() > self._spent_before:
            self._first_seen = (now, counts)
        since, then = self._first_seen or (now, counts)
        done = counts.costs.spent() - then.costs.spent(counts.costs)
        # Workers begin together, and so their first folds end together.
        round_done = counts.folds.total() - then.folds.total() >= max(1, workers)
        if done <= 0 or not (round_done or now - since >= PACE_SECONDS):
            return None
        if not counts.costs.can_tell:
            return None
        pace = (now - since) / done
        running = len(counts.costs.running)
        self._most_running = max(self._most_running, running)
        if running > 0 and self._target - counts.finished <= running:
            # The last trials do not keep all workers busy.
            pace *= self._most_running / running
        search = counts.seconds_left(self._target, num_folds, pace, self._kinds)
        if search_seconds is not None:
            search = min(search, search_seconds)
        return search + counts.winner_seconds(num_folds)

    def _steady(self, now: float, remaining: float | None) -> float | None:
        """Return the time left without its small changes: it runs down as the clock does."""
        if remaining is None:
            self._shown = None
            return None
        if self._shown is not None:
            since, then = self._shown
            shown = then - (now - since)
            if abs(remaining - shown) <= TOLERANCE * max(shown, remaining):
                return shown
        self._shown = (now, remaining)
        return remaining


def _phase(counts: TrialCounts) -> tuple[str, float | None]:
    """Return what the running trials do, and how much of it is done if it is done once."""
    works = [cost.work for cost in counts.costs.running]
    once = [work for work in works if work is not None and work.phase != EPOCHS and work.total]
    if not once or len(once) < len(works):
        return SEARCHING, None
    return once[0].phase, sum(w.done / w.total for w in once) / len(once)
