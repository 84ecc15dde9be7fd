"""What is written to MLflow for one trial: tags, a description, figures and files."""

import getpass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult, gather_out_of_fold
from busi_search.search.mlflow.lookup import HIDDEN, OUTCOME
from busi_search.search.mlflow.pictures import trial_pictures
from busi_search.search.store.records import (
    cv_metrics,
    error_text,
    last_error_line,
    main_value,
    prune_reason,
    recipe_name,
    stored_costs,
    worker_of,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric

WORKER = f"{HIDDEN}busi.worker"
# MLflow's table shows about so much of a tag.
_MOST_LETTERS = 80

STATES = {TrialState.COMPLETE: "COMPLETE", TrialState.PRUNED: "PRUNED", TrialState.FAIL: "FAIL"}


def running_tags(context: StudyContext, trial: FrozenTrial) -> dict[str, str]:
    """Return the tags of the run of a trial that has begun."""
    worker = worker_of(trial) or ""
    tags = {
        "mlflow.runName": f"trial-{trial.number:04d}",
        "busi.kind": "trial",
        "busi.study": context.name,
        "optuna.state": trial.state.name,
        "optuna.number": str(trial.number),
        WORKER: worker,
        **origin_tags(context),
    }
    if (recipe := recipe_name(trial)) is not None:
        tags["busi.recipe"] = recipe
    return tags


def origin_tags(context: StudyContext) -> dict[str, str]:
    """Return MLflow's tags of who made a run, and with what."""
    return {
        "mlflow.user": user_name(),
        "mlflow.source.name": f"busi-search run {context.name}",
        "mlflow.source.type": "LOCAL",
    }


def running_outcome(num_finished: int, num_folds: int) -> str:
    """Return how far a trial has come, for the table of runs."""
    return f"running, {num_finished} of {num_folds} folds finished"


def trial_tags(
    context: StudyContext,
    trial: FrozenTrial,
    results: list[FoldResult],
    expected: float | None = None,
) -> dict[str, str]:
    """Return the tags of a finished trial's run, its description among them.

    Args:
        context: the study.
        trial: in its final state.
        results: of its finished folds.
        expected: the score to be expected of one that was stopped early, if it is known.
    """
    tags = {
        **running_tags(context, trial),
        "optuna.state": STATES[trial.state],
        OUTCOME: _outcome(context, trial, len(results), expected),
        "mlflow.note.content": _description(context, trial, results, expected),
    }
    if (reason := prune_reason(trial)) is not None:
        tags["busi.prune_reason"] = reason
    return tags


def _outcome(
    context: StudyContext, trial: FrozenTrial, num_finished: int, expected: float | None
) -> str:
    """Return in some words what became of a trial."""
    if trial.state == TrialState.COMPLETE:
        return "finished"
    if trial.state == TrialState.FAIL:
        return f"failed: {last_error_line(trial)}"[:_MOST_LETTERS]
    objective = context.spec.study.objective
    found = "" if expected is None else f", expected {objective} {expected:.3f}"
    num_folds = len(context.partition.folds)
    when = f"after {num_finished}" if num_finished else "within the first"
    return f"stopped early {when} of {num_folds} folds{found}"


def _description(
    context: StudyContext,
    trial: FrozenTrial,
    results: list[FoldResult],
    expected: float | None,
) -> str:
    """What became of a trial, as the first lines of its page."""
    num_folds = len(context.partition.folds)
    if trial.state == TrialState.COMPLETE:
        text = (
            f"Trained on all {num_folds} folds: {context.spec.study.objective} "
            f"**{main_value(trial):.4f}**, as found. The best of many trials is partly lucky: the "
            "parent run has the winner's figures corrected for this, the report and the model. "
            "Pictures are under Artifacts."
        )
    elif trial.state == TrialState.PRUNED:
        reason = prune_reason(trial) or "no reason noted"
        text = (
            f"Stopped early with {len(results)} of {num_folds} folds finished: {reason}. "
            + (
                f"Its score on all folds is expected to be {expected:.4f}. "
                if expected is not None
                else ""
            )
            + "It has no `cv_` figures, so it cannot lead the leaderboard."
        )
    else:
        text = f"Failed: {last_error_line(trial)}. The whole error is in `traceback.txt`."
    simulated = context.development.simulated
    return f"Simulated phantoms: scores mean nothing for patients. {text}" if simulated else text


def write_trial_files(
    folder: Path, context: StudyContext, trial: FrozenTrial, results: list[FoldResult]
) -> bool:
    """Write a trial's artifacts into a folder; return whether it has any."""
    if trial.state == TrialState.COMPLETE:
        out_of_fold = gather_out_of_fold(results, context.partition.folds)
        np.savez_compressed(
            folder / "out_of_fold.npz",
            log_probabilities=out_of_fold.log_probabilities,
            fold_of=out_of_fold.fold_of,
            labels=context.development.labels,
            paths=np.asarray(context.development.paths),
        )
    elif trial.state == TrialState.FAIL:
        error = error_text(trial) or "no traceback"
        (folder / "traceback.txt").write_text(error, encoding="utf-8")
    if results and trial.state != TrialState.FAIL:
        _draw(folder, context, trial, results)
    return any(folder.iterdir())


def _draw(
    folder: Path, context: StudyContext, trial: FrozenTrial, results: list[FoldResult]
) -> None:
    """Draw what the finished folds of a trial predicted."""
    folds = context.partition.folds
    members = np.concatenate([folds[result.fold].validation for result in results])
    rows = np.concatenate([result.log_probabilities for result in results])
    development = context.development
    pictures = trial_pictures(
        np.exp(rows),
        development.labels[members],
        class_names=development.class_names,
        positive=development.positive,
        whose=f"trial {trial.number}, {len(results)} of {len(folds)} folds",
    )
    for name, picture in pictures.items():
        (folder / name).write_text(picture, encoding="utf-8")


def fold_metrics(results: list[FoldResult], moment: int | None) -> "list[Metric]":
    """Return the curves of folds.

    Args:
        results: of finished folds.
        moment: in milliseconds, when they were written.
    """
    from mlflow.entities import Metric

    now = moment or 0
    rows = []
    for result in results:
        pairs = zip(result.val_epochs, result.val_auc, strict=True)
        rows += [Metric(f"val_auc/fold{result.fold}", v, now, epoch) for epoch, v in pairs]
        losses = enumerate(result.train_loss, start=1)
        rows += [Metric(f"train_loss/fold{result.fold}", v, now, epoch) for epoch, v in losses]
    return _finite(rows)


def trial_metrics(
    trial: FrozenTrial, results: list[FoldResult], objective: str, expected: float | None
) -> "list[Metric]":
    """Return means over folds, only where all folds were evaluated, and what the trial cost.

    Args:
        trial: that has ended.
        results: of its finished folds.
        objective: name of the study's first objective.
        expected: the score to be expected of a trial that was stopped early, if it is known.
    """
    from mlflow.entities import Metric

    now = milliseconds(trial.datetime_complete) or 0
    rows = []
    if expected is not None and trial.state == TrialState.PRUNED:
        rows.append(Metric(f"expected_{objective}", expected, now, 0))
    if trial.state == TrialState.COMPLETE:
        rows += [Metric(key, value, now, 0) for key, value in cv_metrics(results).items()]
    rows += [Metric(key, float(value), now, 0) for key, value in stored_costs(trial).items()]
    rows.append(Metric("seconds", sum(result.seconds for result in results), now, 0))
    rows.append(Metric("num_folds", len(results), now, 0))
    return _finite(rows)


def _finite(rows: "list[Metric]") -> "list[Metric]":
    return [row for row in rows if np.isfinite(row.value)]


def user_name() -> str:
    """Return who is working on this machine, as far as the system says."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def milliseconds(moment: Any) -> int | None:
    """Return a moment as MLflow counts it."""
    return None if moment is None else int(moment.timestamp() * 1000)
