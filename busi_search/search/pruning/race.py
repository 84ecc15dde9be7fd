"""The race of a trial against the best finished one, look by look and fold by fold."""

from dataclasses import dataclass

import optuna
from optuna.trial import TrialState

from busi_search.search.context import StudyContext, fold_sizes
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.pruning.evidence import (
    FIRST_LOOK,
    Difference,
    hoped_difference,
    paired_differences,
    weigh,
)
from busi_search.search.store.foreign import is_foreign
from busi_search.search.store.queue import Claim
from busi_search.search.store.records import (
    best_trial,
    course,
    recipe_name,
    stored_costs,
    stored_folds,
    trial_hyperparameters,
)
from busi_search.spec import COSTS

# A trial is given up when its overtaking index is smaller. Chosen on replays of unpruned searches
# (benchmarks/pruning.py).
LEAST_INDEX = 0.2
# Within a fold, the fold is taken to end as well as it may, and the trial is given up when its
# index is then smaller than this.
LEAST_LOOK_INDEX = 0.15


@dataclass(frozen=True)
class Incumbent:
    """The best finished trial.

    Attributes:
        number: of the trial.
        folds: by index.
        epochs: that it was meant to be trained for.
    """

    number: int
    folds: dict[int, FoldResult]
    epochs: int


class Incumbents:
    """Finds the best finished trial of a study, and decodes its folds once, not trial by trial."""

    def __init__(self, context: StudyContext, study: optuna.Study) -> None:
        self._context = context
        self._study = study
        # By whether it is the best of all, or of one course.
        self._latest: dict[bool, Incumbent] = {}

    def find(self, claim: Claim, *, of_its_course: bool = False) -> Incumbent | None:
        """Return the best finished trial that costs no more than the claimed one.

        Args:
            claim: the trial that is compared.
            of_its_course: among those that come near their final score as fast as it does.

        Returns:
            None where no trial is finished, or where scores alone decide nothing.
        """
        section = self._context.spec.study
        costs = [name for name in section.further_objectives if name in COSTS]
        if len(costs) < len(section.further_objectives):
            # A second metric is known only in the end: nothing can be ruled out before.
            return None
        sizes = fold_sizes(self._context)
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        complete = [trial for trial in complete if not is_foreign(trial, sizes)]
        if costs:
            mine = stored_costs(claim.frozen())
            complete = [
                t for t in complete if all(stored_costs(t)[key] <= mine[key] for key in costs)
            ]
        if of_its_course:
            own = course(claim.frozen())
            complete = [trial for trial in complete if course(trial) == own]
        best = best_trial(complete, section.direction)
        if best is None:
            return None
        latest = self._latest.get(of_its_course)
        if latest is None or latest.number != best.number:
            folds = stored_folds(best, len(self._context.partition.folds))
            latest = Incumbent(best.number, folds, trial_hyperparameters(best).epochs)
            self._latest[of_its_course] = latest
        return latest


@dataclass(frozen=True)
class _Standing:
    """How a trial stands when a fold of it begins: its rival, and what its folds so far say."""

    rival: Incumbent | None
    differences: list[Difference]


class Race:
    """One trial's race against the best finished one, where the study prunes by evidence.

    It gets the trial's looks and folds in their order, and returns the reason to stop the trial,
    or None.
    """

    def __init__(self, context: StudyContext, incumbents: Incumbents, claim: Claim) -> None:
        """Take the study, what finds its best trial, and the trial that races against it."""
        section = context.spec.study
        self._context, self._incumbents, self._claim = context, incumbents, claim
        self._by_folds = section.pruner == "evidence"
        self._by_looks = self._by_folds and section.objectives == ("cv_auc",)
        self._is_known_system = recipe_name(claim.trial) is not None
        self._folds: list[FoldResult] = []
        self._standing: _Standing | None = None

    def look(self, look: Look) -> str | None:
        """Stop a trial within a fold if even the best end of the fold would not be good enough.

        The rival is the best trial of the same course: a head on frozen features, done in seconds,
        is early where a whole network will be late, and says nothing of where that will end.
        """
        if not self._by_looks or look.epoch < FIRST_LOOK * look.epochs:
            return None
        if self._is_known_system and not self._folds:
            # A known system is shown beside the winner: it gets a whole fold.
            return None
        if self._standing is None:
            # Once a fold: a look may come every few milliseconds.
            self._standing = self._stand(of_its_course=True)
        rival, development = self._standing.rival, self._context.development
        if rival is None:
            return None
        folds = self._context.partition.folds
        hoped = hoped_difference(
            look.val_auc,
            rival.folds[look.fold],
            look.epoch / look.epochs,
            development.labels[folds[look.fold].validation],
            best_epochs=rival.epochs,
            positive=development.positive,
        )
        if hoped is None:
            return None
        evidence = weigh(self._standing.differences, len(folds), hoped=hoped)
        if evidence.overtaking_index >= LEAST_LOOK_INDEX:
            return None
        return (
            f"in epoch {look.epoch} of {look.epochs} of fold {look.fold}, "
            f"AUC {max(look.val_auc):.3f} so far: at most {_difference(evidence.difference)} "
            f"trial {rival.number} (standard error {evidence.standard_error:.3f}), "
            f"overtaking index {evidence.overtaking_index:.2g}, at least {LEAST_LOOK_INDEX} is "
            "needed"
        )

    def fold(self, result: FoldResult) -> str | None:
        """Stop a trial between folds if it is unlikely to end above the best one."""
        self._folds.append(result)
        self._standing = None
        num_folds = len(self._context.partition.folds)
        if not self._by_folds or len(self._folds) == num_folds:
            return None
        standing = self._stand()
        if standing.rival is None:
            return None
        evidence = weigh(standing.differences, num_folds)
        if evidence.overtaking_index >= LEAST_INDEX:
            return None
        return (
            f"after {len(self._folds)} of {num_folds} folds: {_difference(evidence.difference)} "
            f"trial {standing.rival.number} (standard error {evidence.standard_error:.3f}), "
            f"overtaking index {evidence.overtaking_index:.2g}, at least {LEAST_INDEX} is needed"
        )

    def _stand(self, *, of_its_course: bool = False) -> _Standing:
        rival = self._incumbents.find(self._claim, of_its_course=of_its_course)
        if rival is None:
            return _Standing(None, [])
        return _Standing(rival, paired_differences(self._context, self._folds, rival.folds))


def _difference(value: float) -> str:
    """Return a difference from the best trial in words; what follows is that trial."""
    return f"{abs(value):.3f} {'above' if value >= 0 else 'below'}"
