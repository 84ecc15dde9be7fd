"""The systems known before the search, beside the winner, on the same folds."""

from dataclasses import dataclass

import numpy as np
from optuna.trial import TrialState

from busi_search.release.choice import choice_rule
from busi_search.release.recipe_comparison import CorrectedDifference, corrected_differences
from busi_search.release.winner import Winner
from busi_search.search.fold_result import gather_out_of_fold
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.records import (
    cv_metrics,
    is_finished,
    recipe_name,
    trial_hyperparameters,
)
from busi_search.training.metrics import softmax


@dataclass(frozen=True)
class KnownSystem:
    """How a recipe did in a study.

    Attributes:
        name: of the recipe.
        trial: its number.
        state: Optuna's word for how it ended.
        num_folds: folds it was evaluated on.
        metrics: ``cv_`` means over these folds.
        difference: by how much the winner is better on the same folds, corrected for its having
            been chosen; None where the recipe is the winner.
        reported: what its source reports, on other splits.
        architecture: what it is made of.
    """

    name: str
    trial: int
    state: str
    num_folds: int
    metrics: dict[str, float]
    difference: CorrectedDifference | None
    reported: str
    architecture: str


def known_systems(winner: Winner) -> list[KnownSystem]:
    """Compare the winner with every recipe that has ended, image by image on the same folds.

    Returns:
        The systems, best first by the difference to the winner; none if the study has no recipes.
    """
    if not any(recipe_name(trial) for trial in winner.trials):
        return []
    context, section = winner.context, winner.context.spec.study
    folds = context.partition.folds
    # Fully evaluated trials first, as for the winner's corrected figures: the same resamples.
    ended = sorted(filter(is_finished, winner.trials), key=lambda t: t.state != TrialState.COMPLETE)
    done = {trial.number: stored_folds(trial, len(folds)) for trial in ended}
    order = [trial for trial in ended if done[trial.number]]
    gathered = [gather_out_of_fold(list(done[trial.number].values()), folds) for trial in order]
    names = {row: name for row, trial in enumerate(order) if (name := recipe_name(trial))}
    of_winner = [trial.number for trial in order].index(winner.number)
    costs, tolerance = choice_rule(order, section)
    differences = corrected_differences(
        context.development.labels,
        np.stack([softmax(found.log_probabilities) for found in gathered]),
        winner=of_winner,
        recipes={row: np.array(list(done[order[row].number])) for row in names if row != of_winner},
        groups=context.groups,
        folds=gathered[0].fold_of,
        metric=section.metric,
        positive=context.development.positive,
        costs=costs,
        tolerance=tolerance,
        seed=section.seed,
    )
    reported = {str(e.get("name")): str(e.get("reported", "")) for e in context.spec.recipe}
    systems = [
        KnownSystem(
            name=name,
            trial=order[row].number,
            state=order[row].state.name,
            num_folds=len(done[order[row].number]),
            metrics=cv_metrics(list(done[order[row].number].values())),
            difference=differences.get(row),
            reported=reported.get(name, ""),
            architecture=trial_hyperparameters(order[row]).architecture,
        )
        for row, name in names.items()
    ]
    return sorted(systems, key=lambda found: found.difference.value if found.difference else 0.0)
