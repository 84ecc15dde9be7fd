"""What trials cost, by their kind: a frozen network's folds take seconds, another's minutes.

The unit is a second of one worker. Where no fold of a study says how long it took, every fold
counts as one. What is done once for many trials (features of frozen stages are stored, weights are
learned) is counted apart: the next trial of the kind does not take as long.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.fold_records import (
    fold_seconds,
    folds_begun,
    stored_fold,
    unfinished_fold,
)
from busi_search.search.store.records import (
    EPOCHS,
    FINISHED,
    Work,
    recipe_name,
    stored_hyperparameters,
    stored_work,
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
# These decide what is done once for many trials; the first so many of the keys above.
NUM_SHARED_KEYS = 5
# A sampler turns to other kinds of configurations in time: the latest trials tell what comes next.
NUM_RECENT = 20

Kind = tuple[object, ...]


@dataclass(frozen=True)
class TrialCost:
    """What one trial took so far.

    Attributes:
        kind: values of ``COST_KEYS``.
        seconds: of its folds that say how long they took, without ``shared_seconds``.
        timed: number of these folds.
        untimed: number of its other folds; of one that was broken off, the share of its epochs.
        is_running: whether it has not ended.
        shared_seconds: spent on what other trials find done.
        is_recipe: whether it was asked for by name instead of sampled.
        work: what it is doing right now, if it is running and has said so.
    """

    kind: Kind
    seconds: float
    timed: int
    untimed: float
    is_running: bool
    shared_seconds: float = 0.0
    is_recipe: bool = False
    work: Work | None = None

    @property
    def fold_so_far(self) -> float:
        """Seconds spent on the epochs of a fold that is not finished."""
        return self.work.seconds if self.work is not None and self.work.phase == EPOCHS else 0.0

    @property
    def fold_expected(self) -> float | None:
        """Seconds that this fold will take in all, by its epochs so far; None if none is done."""
        if self.work is None or self.work.phase != EPOCHS or self.work.done == 0:
            return None
        return self.work.seconds * self.work.total / self.work.done

    @property
    def shared_left(self) -> float:
        """Seconds until what other trials find done is done, by the parts done so far."""
        if self.work is None or self.work.phase == EPOCHS:
            return 0.0
        return self.work.seconds * (self.work.total - self.work.done) / max(1, self.work.done)


def kind_of(values: Mapping[str, object]) -> Kind:
    """Return the kind of a configuration, of which trials take about as long."""
    return tuple(values.get(key) for key in COST_KEYS)


def trial_cost(trial: FrozenTrial, num_folds: int) -> TrialCost:
    """Return what a trial of a study with so many folds took so far."""
    timed, work = fold_seconds(trial, num_folds), stored_work(trial)
    is_running = trial.state == TrialState.RUNNING
    shared = work.shared_seconds if work is not None else 0.0
    finished = work is not None and stored_fold(trial, work.fold or 0) is not None
    if not is_running or (work is not None and work.phase == EPOCHS and finished):
        # What it was doing when it last said so is over.
        work = None
    return TrialCost(
        kind=kind_of(stored_hyperparameters(trial)),
        # The first fold is timed with what comes before it.
        seconds=max(0.0, sum(timed) - shared) if timed else 0.0,
        timed=len(timed),
        untimed=max(0, folds_begun(trial, num_folds) - len(timed)) - _not_trained(trial),
        is_running=is_running,
        shared_seconds=shared,
        is_recipe=recipe_name(trial) is not None,
        work=work,
    )


def _not_trained(trial: FrozenTrial) -> float:
    """Return which share of the epochs of the fold that a trial broke off was not trained."""
    within, epochs = unfinished_fold(trial), stored_hyperparameters(trial).get("epochs")
    return 0.0 if within is None or not epochs else 1 - min(1.0, within.epochs / epochs)


@dataclass(frozen=True)
class Costs:
    """What the trials of a study took.

    Attributes:
        seconds, timed, untimed, shared: sums over trials, by kind; see :class:`TrialCost`.
        recent: the latest trials that are finished, at most ``NUM_RECENT``.
        running: the trials that have not ended.
    """

    seconds: Counter[Kind] = field(default_factory=Counter)
    timed: Counter[Kind] = field(default_factory=Counter)
    untimed: Counter[Kind] = field(default_factory=Counter)
    shared: Counter[Kind] = field(default_factory=Counter)
    recent: tuple[TrialCost, ...] = ()
    running: tuple[TrialCost, ...] = ()

    def with_these(self, trials: Sequence[FrozenTrial], num_folds: int) -> "Costs":
        """Return the costs with further trials of the study, in their order."""
        seconds, timed, untimed = self.seconds.copy(), self.timed.copy(), self.untimed.copy()
        shared = self.shared.copy()
        found = [trial_cost(trial, num_folds) for trial in trials]
        for cost in found:
            seconds[cost.kind] += cost.seconds  # type: ignore[assignment]
            timed[cost.kind] += cost.timed
            untimed[cost.kind] += cost.untimed  # type: ignore[assignment]
            shared[cost.kind] += cost.shared_seconds  # type: ignore[assignment]
        pairs = list(zip(trials, found, strict=True))
        recent = (*self.recent, *(cost for trial, cost in pairs if trial.state in FINISHED))
        running = (*self.running, *(cost for cost in found if cost.is_running))
        return replace(
            self,
            seconds=seconds,
            timed=timed,
            untimed=untimed,
            shared=shared,
            recent=recent[-NUM_RECENT:],
            running=running,
        )

    def a_fold(self, kind: Kind) -> float:
        """Return what a fold of a kind takes: as its others, or as all others, or 1."""
        if self.timed[kind]:
            return self.seconds[kind] / self.timed[kind]
        if total := self.timed.total():
            return sum(self.seconds.values()) / total
        begun = [cost.fold_expected for cost in self.running]
        known = [seconds for seconds in begun if seconds is not None]
        return sum(known) / len(known) if known else 1.0

    @property
    def can_tell(self) -> bool:
        """Whether anything says how long a trial takes: a finished fold, or epochs of one."""
        begun = any(cost.fold_expected is not None for cost in self.running)
        return begun or bool(self.timed.total() or self.untimed.total())

    def of(self, cost: TrialCost) -> float:
        """Return what a trial took, folds that do not say so included, shared work left out."""
        return cost.seconds + cost.untimed * self.a_fold(cost.kind) + cost.fold_so_far

    def spent(self, other: "Costs | None" = None) -> float:
        """Return what all trials took, with the folds as expensive as in ``other``."""
        prices = other or self
        untimed = sum(count * prices.a_fold(kind) for kind, count in self.untimed.items())
        now = sum(cost.fold_so_far for cost in self.running)
        return sum(self.seconds.values()) + sum(self.shared.values()) + untimed + now

    def left(self, num_trials: int, num_folds: int, kinds: Iterable[Kind] = ()) -> float:
        """Return what is left to be spent until so many more trials are finished.

        A running trial takes what the finished ones of its kind took, a trial to come what the
        latest finished ones of all kinds took.

        Args:
            num_trials: that are missing, those that are running included.
            num_folds: of a trial that is not stopped early.
            kinds: that the study may sample; what is done once for each is yet to be done for
                those that were not seen.
        """
        usual, usual_folds = self._usual(), self._usual_folds(num_folds)
        rest = 0.0
        for cost in self.running[: max(0, num_trials)]:
            alike = [other for other in self.recent if other.kind == cost.kind]
            expected = self._mean(alike)
            if expected is None:
                begun = cost.fold_expected
                a_fold = begun if begun and not self.timed[cost.kind] else self.a_fold(cost.kind)
                known = self.timed[cost.kind] or begun is not None
                expected = usual_folds * a_fold if known or usual is None else usual
            # One that took longer than usual has half a fold to go, for all that is known.
            least = 0.5 * self.a_fold(cost.kind) if self.timed[cost.kind] else 0.0
            rest += max(least, expected - self.of(cost)) + cost.shared_left
        to_come = max(0, num_trials - len(self.running))
        once = self._shared_to_come(kinds, to_come)
        return rest + once + to_come * (num_folds * self.a_fold(()) if usual is None else usual)

    def _usual_folds(self, num_folds: int) -> float:
        """How many folds a trial has, those that are stopped early included."""
        found = [c.timed + c.untimed for c in self.recent if not c.is_recipe]
        return sum(found) / len(found) if found else num_folds

    def _usual(self) -> float | None:
        """What a trial to come takes: known systems are tried first, and are of other kinds."""
        sampled = self._mean(cost for cost in self.recent if not cost.is_recipe)
        return self._mean(self.recent) if sampled is None else sampled

    def _shared_to_come(self, kinds: Iterable[Kind], to_come: int) -> float:
        """Return what will be spent once for each kind that has not been seen, if it comes."""
        known = Counter[Kind]()
        for kind, seconds in self.shared.items():
            if seconds > 0:
                known[kind[:NUM_SHARED_KEYS]] += seconds
        possible = {kind[:NUM_SHARED_KEYS] for kind in kinds}
        seen = {kind[:NUM_SHARED_KEYS] for kind, number in self.timed.items() if number}
        seen |= {cost.kind[:NUM_SHARED_KEYS] for cost in self.running}
        unseen = possible - seen
        if not known or not unseen:
            return 0.0
        # It grows with the number of pixels.
        per_pixel = sum(known.values()) / sum(map(_num_pixels, known))
        chance = 1 - (1 - 1 / len(possible)) ** to_come
        return chance * per_pixel * sum(map(_num_pixels, unseen))

    def _mean(self, costs: Iterable[TrialCost]) -> float | None:
        found = [self.of(cost) for cost in costs]
        return sum(found) / len(found) if found else None


def _num_pixels(kind: Kind) -> float:
    side = kind[COST_KEYS.index("image_size_pixels")]
    return float(side) ** 2 if isinstance(side, int | float) else 1.0
