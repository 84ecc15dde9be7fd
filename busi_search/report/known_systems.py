"""The systems known before the search, beside the winner, on the same folds."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.context import StudyContext
from busi_search.search.pruning.evidence import Evidence, paired_differences, weigh
from busi_search.search.store.records import cv_metrics, stored_folds, trial_hyperparameters


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


def known_systems(
    context: StudyContext, trials: Sequence[FrozenTrial], winner: FrozenTrial
) -> list[KnownSystem]:
    """Compare every recipe that has ended with the winner, image by image on the same folds."""
    folds = context.partition.folds
    best = stored_folds(winner, len(folds))
    reported = {str(e.get("name")): str(e.get("reported", "")) for e in context.spec.recipe}
    systems = []
    for trial in trials:
        if "recipe" not in trial.user_attrs or trial.state not in (
            TrialState.COMPLETE,
            TrialState.PRUNED,
        ):
            continue
        done = stored_folds(trial, len(folds))
        if not done:
            continue
        order = sorted(done)
        results = [done[index] for index in order]
        evidence = weigh(paired_differences(context, results, best), len(folds))
        name = str(trial.user_attrs["recipe"])
        systems.append(
            KnownSystem(
                name=name,
                trial=trial.number,
                state=trial.state.name,
                num_folds=len(order),
                metrics=cv_metrics(results),
                evidence=evidence,
                reported=reported.get(name, ""),
                architecture=trial_hyperparameters(trial).architecture,
            )
        )
    return systems


def known_systems_section(
    context: StudyContext, trials: Sequence[FrozenTrial], winner: FrozenTrial
) -> str:
    """Return an HTML section, or nothing if the study knows no recipes."""
    systems = known_systems(context, trials, winner)
    if not systems:
        return ""
    folds = stored_folds(winner, len(context.partition.folds))
    best = cv_metrics([folds[index] for index in sorted(folds)])
    header = (
        "system",
        "architecture",
        "folds",
        "cv_auc",
        "cv_accuracy",
        f"{context.spec.study.objective} minus the winner's, same folds",
        "p",
        "its source reports",
    )
    rows = [header]
    rows.append(
        (
            f"winner (trial {winner.number})",
            trial_hyperparameters(winner).architecture,
            str(len(folds)),
            f"{best['cv_auc']:.3f}",
            f"{best['cv_accuracy']:.3f}",
            "",
            "",
            "",
        )
    )
    rows += [
        (
            f"{system.name} (trial {system.trial})",
            system.architecture,
            f"{system.num_folds}{', given up' if system.state == 'PRUNED' else ''}",
            f"{system.metrics['cv_auc']:.3f}",
            f"{system.metrics['cv_accuracy']:.3f}",
            f"{system.evidence.difference:+.3f} ± {system.evidence.standard_error:.3f}",
            f"{system.evidence.p_value:.2g}",
            system.reported,
        )
        for system in sorted(systems, key=lambda system: -system.evidence.difference)
    ]
    cells = [
        "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in row)
        for tag, row in zip(["th"] + ["td"] * len(rows), rows, strict=False)
    ]
    return (
        "<h2>Known systems against the winner</h2><p>Configurations that others published, tried "
        "in this study with what it fixes (epochs, image size, weights): same folds, same images, "
        "near-duplicates kept together. The difference is paired image by image, ± its standard "
        "error; p is the chance of a difference this low if the two were equal. What a source "
        "reports was measured on other splits, and near-duplicates usually cross those.</p>"
        f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"
    )
