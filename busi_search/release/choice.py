"""Which trial wins, by the rule that a study's file states."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.fold_records import known_folds
from busi_search.search.store.records import main_value, objective_value, standard_error
from busi_search.spec import COSTS, StudySection

Array = npt.NDArray[np.float64]


def select_trial(trials: Sequence[FrozenTrial], section: StudySection) -> FrozenTrial | None:
    """Return the trial that a study releases, by the rule its file states; None if none is done.

    ``best``: the best first objective, the earliest of equals. ``one_standard_error``: the smallest
    by the second objective (else by ``num_parameters``) among those no worse than the best minus
    its standard error over the folds.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return None
    sign = -1.0 if section.direction == "minimize" else 1.0
    scores = sign * np.array([[main_value(trial)] for trial in complete], dtype=np.float64)
    costs, tolerance = choice_rule(complete, section)
    return complete[int(choose_trial(scores, costs, tolerance)[0])]


def choice_rule(
    trials: Sequence[FrozenTrial], section: StudySection
) -> tuple[npt.NDArray[np.float64] | None, float]:
    """Return the costs of the trials and how much worse than the best the choice may be.

    Pruned trials have costs, too: a metric is the mean over the folds that they finished, at least
    one each. At least one trial is complete.
    """
    if section.winner == "best":
        return None, 0.0
    index = 1 if section.further_objectives else None
    sign = 1.0 if index is None or section.directions[index] == "minimize" else -1.0
    name = section.objectives[index] if index else COSTS[0]
    costs = [sign * objective_value(trial, known_folds(trial), name) for trial in trials]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    better = max if section.direction == "maximize" else min
    best = better(complete, key=lambda trial: trial.values[0])
    tolerance = standard_error(best)
    assert tolerance is not None, "every complete trial has one"
    # What has no finite cost (a class is absent from a fold) is never the cheapest.
    return np.nan_to_num(np.array(costs, dtype=np.float64), nan=np.inf), tolerance


def pareto_front(trials: Sequence[FrozenTrial], section: StudySection) -> list[FrozenTrial]:
    """Return the complete trials that no other beats in one objective and equals in the rest."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    signs = np.array([1.0 if way == "minimize" else -1.0 for way in section.directions])
    costs = [signs * np.array(trial.values, dtype=np.float64) for trial in complete]

    def beaten(own: Array) -> bool:
        return any(bool(np.all(other <= own) and np.any(other < own)) for other in costs)

    return [trial for trial, own in zip(complete, costs, strict=True) if not beaten(own)]


def choose_trial(
    scores: Array, costs: npt.NDArray[np.floating] | None = None, tolerance: float = 0.0
) -> npt.NDArray[np.int64]:
    """Return, for each column, the best trial, or the cheapest that is nearly as good.

    Args:
        scores: (T, B), larger is better; what is not finite is never chosen.
        costs: (T,), smaller is better; None: only the score counts.
        tolerance: how much worse than the best the chosen trial may be.
    """
    ranked = np.where(np.isfinite(scores), scores, -np.inf)
    best: npt.NDArray[np.int64] = ranked.argmax(axis=0)
    if costs is None:
        return best
    near = ranked >= ranked.max(axis=0) - tolerance
    cost = np.where(near, costs[:, None], np.inf)
    # Of equally cheap ones the better.
    cheapest = cost == cost.min(axis=0)
    result: npt.NDArray[np.int64] = np.where(cheapest, ranked, -np.inf).argmax(axis=0)
    return result
