"""What trials cost, by their kind: a frozen network's folds take seconds, another's minutes.

The unit is a second of one worker. Where no fold of a study says how long it took, every fold
counts as one.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.records import (
    FINISHED,
    fold_seconds,
    folds_begun,
    stored_hyperparameters,
)

# What decides how long a fold takes, for the most part.
COST_KEYS = (
    "architecture",
    "image_size_pixels",
    "freeze_depth",
    "augmentation_views",
    "head",
    "epochs",
    "batch_size",
)
# A sampler turns to other kinds of configurations in time: the latest trials tell what comes next.
NUM_RECENT = 20

Kind = tuple[object, ...]


@dataclass(frozen=True)
class TrialCost:
    """What one trial took so far.

    Attributes:
        kind: values of ``COST_KEYS``.
        seconds: of its folds that say how long they took.
        timed: number of these folds.
        untimed: number of its other folds, such as one that was broken off.
        is_running: whether it has not ended.
    """

    kind: Kind
    seconds: float
    timed: int
    untimed: int
    is_running: bool


def trial_cost(trial: FrozenTrial, num_folds: int) -> TrialCost:
    """Return what a trial of a study with so many folds took so far."""
    values, timed = stored_hyperparameters(trial), fold_seconds(trial, num_folds)
    return TrialCost(
        kind=tuple(values.get(key) for key in COST_KEYS),
        seconds=sum(timed),
        timed=len(timed),
        untimed=max(0, folds_begun(trial, num_folds) - len(timed)),
        is_running=trial.state == TrialState.RUNNING,
    )


@dataclass(frozen=True)
class Costs:
    """What the trials of a study took.

    Attributes:
        seconds, timed, untimed: sums over trials, by kind; see :class:`TrialCost`.
        recent: the latest trials that are finished, at most ``NUM_RECENT``.
        running: the trials that have not ended.
    """

    seconds: Counter[Kind] = field(default_factory=Counter)
    timed: Counter[Kind] = field(default_factory=Counter)
    untimed: Counter[Kind] = field(default_factory=Counter)
    recent: tuple[TrialCost, ...] = ()
    running: tuple[TrialCost, ...] = ()

    def with_these(self, trials: Sequence[FrozenTrial], num_folds: int) -> "Costs":
        """Return the costs with further trials of the study, in their order."""
        seconds, timed, untimed = self.seconds.copy(), self.timed.copy(), self.untimed.copy()
        found = [trial_cost(trial, num_folds) for trial in trials]
        for cost in found:
            seconds[cost.kind] += cost.seconds  # type: ignore[assignment]
            timed[cost.kind] += cost.timed
            untimed[cost.kind] += cost.untimed
        pairs = list(zip(trials, found, strict=True))
        recent = (*self.recent, *(cost for trial, cost in pairs if trial.state in FINISHED))
        running = (*self.running, *(cost for cost in found if cost.is_running))
        return replace(
            self,
            seconds=seconds,
            timed=timed,
            untimed=untimed,
            recent=recent[-NUM_RECENT:],
            running=running,
        )

    def a_fold(self, kind: Kind) -> float:
        """Return what a fold of a kind takes: as its others, or as all others, or 1."""
        if self.timed[kind]:
            return self.seconds[kind] / self.timed[kind]
        if total := self.timed.total():
            return sum(self.seconds.values()) / total
        return 1.0

    def of(self, cost: TrialCost) -> float:
        """Return what a trial took, folds that do not say so included."""
        return cost.seconds + cost.untimed * self.a_fold(cost.kind)

    def spent(self, other: "Costs | None" = None) -> float:
        """Return what all trials took, with the folds as expensive as in ``other``."""
        prices = other or self
        untimed = sum(count * prices.a_fold(kind) for kind, count in self.untimed.items())
        return sum(self.seconds.values()) + untimed

    def left(self, num_trials: int, num_folds: int) -> float:
        """Return what is left to be spent until so many more trials are finished.

        A running trial takes what the finished ones of its kind took, a trial to come what the
        latest finished ones of all kinds took.
        """
        usual = self._mean(self.recent)
        rest = 0.0
        for cost in self.running[: max(0, num_trials)]:
            alike = [other for other in self.recent if other.kind == cost.kind]
            expected = self._mean(alike)
            if expected is None:
                whole = num_folds * self.a_fold(cost.kind)
                expected = whole if self.timed[cost.kind] or usual is None else usual
            rest += max(0.0, expected - self.of(cost))
        to_come = max(0, num_trials - len(self.running))
        return rest + to_come * (num_folds * self.a_fold(()) if usual is None else usual)

    def _mean(self, costs: Iterable[TrialCost]) -> float | None:
        found = [self.of(cost) for cost in costs]
        return sum(found) / len(found) if found else None
