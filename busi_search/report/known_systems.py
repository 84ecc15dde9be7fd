"""The systems known before the search, beside the winner, on the same folds."""

from dataclasses import dataclass

from busi_search.release.winner import Winner
from busi_search.search.pruning.evidence import Evidence, paired_differences, weigh
from busi_search.search.store.records import (
    cv_metrics,
    is_finished,
    recipe_name,
    stored_folds,
    trial_hyperparameters,
)


@dataclass(frozen=True)
class KnownSystem:
    """How a recipe did in a study.

    Attributes:
        name: of the recipe.
        trial: its number.
        state: Optuna's word for how it ended.
        num_folds: folds it was evaluated on.
        metrics: ``cv_`` means over these folds.
        evidence: its score minus the winner's on the same folds, positive = better.
        reported: what its source reports, on other splits.
        architecture: what it is made of.
    """

    name: str
    trial: int
    state: str
    num_folds: int
    metrics: dict[str, float]
    evidence: Evidence
    reported: str
    architecture: str


def known_systems(winner: Winner) -> list[KnownSystem]:
    """Compare every recipe that has ended with the winner, image by image on the same folds.

    Returns:
        The systems, best first by the difference to the winner; none if the study has no recipes.
    """
    context = winner.context
    num_folds = len(context.partition.folds)
    best = {fold.fold: fold for fold in winner.folds}
    reported = {str(e.get("name")): str(e.get("reported", "")) for e in context.spec.recipe}
    systems = []
    for trial in winner.trials:
        name, done = recipe_name(trial), stored_folds(trial, num_folds)
        if name is None or not is_finished(trial) or not done:
            continue
        results = [done[index] for index in sorted(done)]
        systems.append(
            KnownSystem(
                name=name,
                trial=trial.number,
                state=trial.state.name,
                num_folds=len(results),
                metrics=cv_metrics(results),
                evidence=weigh(paired_differences(context, results, best), num_folds),
                reported=reported.get(name, ""),
                architecture=trial_hyperparameters(trial).architecture,
            )
        )
    return sorted(systems, key=lambda system: -system.evidence.difference)
