"""What MLflow is told of one trial: tags, a description, figures and files."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult, gather_out_of_fold
from busi_search.search.store.records import (
    cv_metrics,
    error_text,
    main_value,
    prune_reason,
    recipe_name,
    stored_costs,
    worker_of,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric

STATES = {TrialState.COMPLETE: "COMPLETE", TrialState.PRUNED: "PRUNED", TrialState.FAIL: "FAIL"}


def trial_tags(
    context: StudyContext, trial: FrozenTrial, results: list[FoldResult]
) -> dict[str, str]:
    """Return the tags of a finished trial's run, its description among them."""
    tags = {
        "mlflow.runName": f"trial-{trial.number:04d}",
        "busi.kind": "trial",
        "busi.study": context.name,
        "optuna.state": STATES[trial.state],
        "optuna.number": str(trial.number),
        "busi.worker": worker_of(trial) or "",
        "mlflow.note.content": _description(context, trial, results),
    }
    if (recipe := recipe_name(trial)) is not None:
        tags["busi.recipe"] = recipe
    if (reason := prune_reason(trial)) is not None:
        tags["busi.prune_reason"] = reason
    return tags


def _description(context: StudyContext, trial: FrozenTrial, results: list[FoldResult]) -> str:
    """What became of a trial, as the first lines of its page."""
    num_folds = len(context.partition.folds)
    if trial.state == TrialState.COMPLETE:
        text = (
            f"Evaluated on all {num_folds} folds: {context.spec.study.objective} "
            f"**{main_value(trial):.4f}**, as found. The parent run has the winner's figures "
            "corrected for the choice, the report and the registered model."
        )
    elif trial.state == TrialState.PRUNED:
        reason = prune_reason(trial) or "no reason noted"
        text = (
            f"Given up after {len(results)} of {num_folds} folds ({reason}); it has no `cv_` "
            "figures, so that it cannot lead the leaderboard."
        )
    else:
        text = "Failed; the artifact `traceback.txt` says why."
    simulated = context.development.simulated
    return f"Simulated phantoms, nothing for patients. {text}" if simulated else text


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
    else:
        return False
    return True


def trial_metrics(trial: FrozenTrial, results: list[FoldResult]) -> "list[Metric]":
    """Curves of every fold; means over folds only where all folds were evaluated."""
    from mlflow.entities import Metric

    now = milliseconds(trial.datetime_complete) or 0
    rows = []
    for result in results:
        pairs = zip(result.val_epochs, result.val_auc, strict=True)
        rows += [Metric(f"val_auc/fold{result.fold}", v, now, epoch) for epoch, v in pairs]
        losses = enumerate(result.train_loss, start=1)
        rows += [Metric(f"train_loss/fold{result.fold}", v, now, epoch) for epoch, v in losses]
    if trial.state == TrialState.COMPLETE:
        rows += [Metric(key, value, now, 0) for key, value in cv_metrics(results).items()]
    rows += [Metric(key, float(value), now, 0) for key, value in stored_costs(trial).items()]
    rows.append(Metric("seconds", sum(result.seconds for result in results), now, 0))
    rows.append(Metric("num_folds", len(results), now, 0))
    return [row for row in rows if np.isfinite(row.value)]


def milliseconds(moment: Any) -> int | None:
    """Return a moment as MLflow counts it."""
    return None if moment is None else int(moment.timestamp() * 1000)
