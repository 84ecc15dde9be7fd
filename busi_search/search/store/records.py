"""What a trial leaves in the Optuna storage: enough to go on, to report and to judge it.

Its attributes are read and written here only; what a study keeps is in :mod:`.study_record`.
"""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from busi_search.architectures import ARCHITECTURES
from busi_search.search.fold_result import FoldResult, Look
from busi_search.spec import COSTS, Hyperparameters, StudySection

# Names under which old studies hold these, too.
HYPERPARAMETERS = "hyperparameters"
RECIPE = "recipe"
RECIPE_SETTINGS = "recipe_settings"
PRUNE_REASON = "prune_reason"
UNFINISHED_FOLD = "unfinished_fold"
WORK = "work"
ERROR = "error"
WORKER = "worker"
STANDARD_ERROR = "standard_error"
LOST = "lost"
# When its worker was last heard of, by the server's clock.
HEARTBEAT = "heartbeat"
_FOLD = "fold"
# Folds are Optuna's system attributes, which it keeps as well and its dashboard does not show or
# send: they are long. Earlier versions made user attributes of them.
_SYSTEM = "busi:"
# Of the networks that are not in our table.
_MOST_STAGES = 5

# States that count towards a study's number of trials: evaluated on all folds, or stopped early.
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def is_finished(trial: FrozenTrial) -> bool:
    """Return whether a trial counts towards a study's total number of trials."""
    return trial.state in FINISHED


def stored_indices(trial: FrozenTrial) -> list[int]:
    """Return the indices of the folds of a trial that were finished, in their order."""
    keys = [*trial.user_attrs, *(key.removeprefix(_SYSTEM) for key in trial.system_attrs)]
    names = {key.removeprefix(_FOLD) for key in keys if key.startswith(_FOLD)}
    return sorted(int(name) for name in names if name.isdecimal())


def stored_fold(trial: FrozenTrial, fold: int) -> Mapping[str, Any] | None:
    """Return the result of a fold as :func:`encode_fold` made it; None if it is not finished."""
    key = fold_key(fold)
    found = trial.user_attrs.get(key)
    return trial.system_attrs.get(f"{_SYSTEM}{key}") if found is None else found


def num_finished(trials: Iterable[FrozenTrial]) -> int:
    """Return how many trials count towards a study's total number of trials."""
    return sum(map(is_finished, trials))


def fold_key(fold: int) -> str:
    """Name of one fold's result; of the user attribute, in studies of earlier versions."""
    return f"{_FOLD}{fold}"


def encode_fold(result: FoldResult) -> dict[str, Any]:
    """Return a JSON-ready form of a fold's result; predictions keep every bit."""
    rows = np.ascontiguousarray(result.log_probabilities, dtype="<f4")
    return {
        "log_probabilities": base64.b64encode(rows.tobytes()).decode(),
        "num_classes": rows.shape[1],
        "metrics": {key: _finite(value) for key, value in result.metrics.items()},
        "train_loss": list(result.train_loss),
        "val_epochs": list(result.val_epochs),
        "val_auc": [_finite(value) for value in result.val_auc],
        "image_passes": result.image_passes,
        "seconds": round(result.seconds, 4),
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def decode_fold(fold: int, stored: Mapping[str, Any]) -> FoldResult:
    """Return the result that :func:`encode_fold` stored."""
    rows = np.frombuffer(base64.b64decode(stored["log_probabilities"]), dtype="<f4")

    def number(value: float | None) -> float:
        return math.nan if value is None else value

    return FoldResult(
        fold=fold,
        log_probabilities=rows.reshape(-1, int(stored["num_classes"])),
        metrics={key: number(value) for key, value in stored["metrics"].items()},
        train_loss=tuple(stored["train_loss"]),
        val_epochs=tuple(stored["val_epochs"]),
        val_auc=tuple(number(value) for value in stored["val_auc"]),
        image_passes=int(stored["image_passes"]),
        seconds=float(stored["seconds"]),
    )


def first_fold(section: StudySection, trial_number: int, num_folds: int) -> int:
    """Return the index of the fold that a trial begins with; the others follow in turn.

    By evidence a trial is compared with the best one on the folds it has. If all trials began with
    the same fold, a best one that was lucky there would end every other.
    """
    return trial_number % num_folds if section.pruner == "evidence" else 0


def stored_folds(trial: FrozenTrial, num_folds: int) -> dict[int, FoldResult]:
    """Return the folds of a trial that were finished, by index."""
    return {
        fold: decode_fold(fold, stored)
        for fold in range(num_folds)
        if (stored := stored_fold(trial, fold)) is not None
    }


def known_folds(trial: FrozenTrial) -> list[FoldResult]:
    """Return the folds of a trial that were finished, in their order, however many there are."""
    found = ((fold, stored_fold(trial, fold)) for fold in stored_indices(trial))
    return [decode_fold(fold, stored) for fold, stored in found if stored is not None]


def fold_scores(trial: FrozenTrial, metric: str) -> dict[int, float]:
    """Return a metric of the finished folds of a trial, by index; empty where none is stored."""
    scores: dict[int, float] = {}
    for fold in stored_indices(trial):
        metrics = (stored_fold(trial, fold) or {}).get("metrics", {})
        if metric in metrics:
            value = metrics[metric]
            scores[fold] = math.nan if value is None else float(value)
    return scores


@dataclass(frozen=True)
class UnfinishedFold:
    """The fold within which a trial was stopped.

    Attributes:
        fold: its index.
        epochs: that were trained.
        auc: the highest validation AUC until then.
    """

    fold: int
    epochs: int
    auc: float

    @classmethod
    def at(cls, look: Look) -> Self:
        """Return the fold as it is when it is looked at."""
        return cls(look.fold, look.epoch, max(look.val_auc))

    def encode(self) -> dict[str, Any]:
        """Return a JSON-ready form."""
        return asdict(self)


def unfinished_fold(trial: FrozenTrial) -> UnfinishedFold | None:
    """Return the fold within which a trial was stopped; None if it ended after a whole one."""
    return UnfinishedFold(**trial.user_attrs[UNFINISHED_FOLD]) if _broke_off(trial) else None


def _broke_off(trial: FrozenTrial) -> bool:
    stored = trial.user_attrs.get(UNFINISHED_FOLD)
    # With the whole fold beside it, its worker was killed while giving it up; the next one went on.
    return stored is not None and stored_fold(trial, stored["fold"]) is None


@dataclass(frozen=True)
class Work:
    """What a running trial is doing, so that the time left can be told within a fold.

    Attributes:
        phase: ``EPOCHS``, or what is done once for many trials, such as "storing features".
        done, total: parts of it, such as epochs of a fold.
        seconds: that these parts took.
        shared_seconds: that the trial has spent on what other trials find done.
        fold: that the epochs belong to, or None.
    """

    phase: str
    done: int
    total: int
    seconds: float
    shared_seconds: float = 0.0
    fold: int | None = None


EPOCHS = "training"


def write_work(trial: optuna.Trial, work: Work) -> None:
    """Keep what a trial is doing."""
    trial.set_user_attr(WORK, asdict(work))


def stored_work(trial: FrozenTrial) -> Work | None:
    """Return what a trial was doing when it last said so, or None."""
    found = trial.user_attrs.get(WORK)
    return None if found is None else Work(**found)


def write_fold(storage: BaseStorage, trial_id: int, result: FoldResult) -> None:
    """Keep a finished fold; predictions keep every bit.

    Args:
        storage: where the trial is kept.
        trial_id: its name there.
        result: of the fold.
    """
    key = f"{_SYSTEM}{fold_key(result.fold)}"
    storage.set_trial_system_attr(trial_id, key, encode_fold(result))


def write_hyperparameters(trial: optuna.Trial, hyperparameters: Hyperparameters) -> None:
    """Keep the full configuration of a trial."""
    trial.set_user_attr(HYPERPARAMETERS, hyperparameters.model_dump())


def write_cost(trial: optuna.Trial, name: str, value: float) -> None:
    """Keep one of ``COSTS`` of a trial's model."""
    trial.set_user_attr(name, value)


def write_standard_error(trial: optuna.Trial, value: float) -> None:
    """Keep the standard error over the folds of the first objective."""
    trial.set_user_attr(STANDARD_ERROR, value)


def write_prune_reason(
    trial: optuna.Trial, reason: str, within: UnfinishedFold | None = None
) -> None:
    """Store why a trial is stopped, and within which fold, if in the middle of one."""
    if within is not None:
        trial.set_user_attr(UNFINISHED_FOLD, within.encode())
    trial.set_user_attr(PRUNE_REASON, reason)


def write_error(trial: optuna.Trial, traceback: str) -> None:
    """Keep what a trial failed with."""
    trial.set_user_attr(ERROR, traceback)


def folds_begun(trial: FrozenTrial, num_folds: int) -> int:
    """Return how many folds of a trial were trained, one that was broken off included."""
    if trial.state == TrialState.COMPLETE:
        return num_folds
    return num_stored_folds(trial) + _broke_off(trial)


def fold_seconds(trial: FrozenTrial, num_folds: int) -> list[float]:
    """Return how long each finished fold of a trial took, of those that say so."""
    stored = [stored_fold(trial, fold) or {} for fold in range(num_folds)]
    return [float(fold["seconds"]) for fold in stored if "seconds" in fold]


def num_stored_folds(trial: FrozenTrial) -> int:
    """Return how many folds of a trial were finished."""
    return len(stored_indices(trial))


def best_look(trial: FrozenTrial, fold: int, share: float) -> float | None:
    """Return the highest validation AUC of a finished fold up to a share of the epochs.

    A fold that was looked at once, in its end, says nothing of how training went.
    """
    stored = stored_fold(trial, fold)
    if stored is None or len(stored["val_epochs"]) < 2:
        return None
    latest = share * num_epochs(trial) + 1e-9
    looks = zip(stored["val_epochs"], stored["val_auc"], strict=True)
    return max((auc for epoch, auc in looks if epoch <= latest and auc is not None), default=None)


def stored_hyperparameters(trial: FrozenTrial) -> dict[str, Any]:
    """Return the full configuration of a trial as it was stored; empty if it has not started."""
    return dict(trial.user_attrs.get(HYPERPARAMETERS, {}))


def trial_hyperparameters(trial: FrozenTrial) -> Hyperparameters:
    """Return the full configuration of a trial that has started."""
    return Hyperparameters(**trial.user_attrs[HYPERPARAMETERS])


def num_epochs(trial: FrozenTrial) -> int:
    """Return the number of epochs that a trial that has started was to be trained for."""
    return int(trial.user_attrs[HYPERPARAMETERS]["epochs"])


def course(trial: FrozenTrial) -> tuple[object, ...]:
    """Return what decides how fast a network approaches its final score.

    A head on frozen features gets there within a few epochs; a whole network does not. Scores
    within a fold are compared only between trials that agree in this.
    """
    values = stored_hyperparameters(trial)
    entry = ARCHITECTURES.get(values.get("architecture", ""))
    num_stages = _MOST_STAGES if entry is None else entry.num_stages
    return (
        values.get("weights", "none"),
        values.get("freeze_depth", 0) >= num_stages,
        values.get("head_only_epochs", 0) > 0,
        values.get("start_image_size_ratio", 1.0) < 1,
    )


def recipe_attributes(name: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes of a trial that is a known configuration instead of sampled."""
    return {RECIPE: name, RECIPE_SETTINGS: dict(settings)}


def recipe_name(trial: FrozenTrial | optuna.Trial) -> str | None:
    """Return the name of the known configuration that a trial is, or None for a sampled one."""
    found = trial.user_attrs.get(RECIPE)
    return None if found is None else str(found)


def recipe_settings(trial: FrozenTrial | optuna.Trial) -> dict[str, Any]:
    """Return the known configuration that a trial is; empty for a sampled one."""
    return dict(trial.user_attrs.get(RECIPE_SETTINGS, {}))


def prune_reason(trial: FrozenTrial) -> str | None:
    """Return why a trial was stopped, or None."""
    found = trial.user_attrs.get(PRUNE_REASON)
    return None if found is None else str(found)


def standard_error(trial: FrozenTrial) -> float | None:
    """Return the standard error over the folds of the first objective of a complete trial."""
    found = trial.user_attrs.get(STANDARD_ERROR)
    return None if found is None else float(found)


def stored_costs(trial: FrozenTrial | optuna.Trial) -> dict[str, float]:
    """Return what a trial's model costs, by the names of ``COSTS``, as far as it is known."""
    attributes = trial.user_attrs
    return {name: attributes[name] for name in COSTS if name in attributes}


def worker_of(trial: FrozenTrial) -> str | None:
    """Return the name of the worker that has a trial, or had it last."""
    found = trial.user_attrs.get(WORKER)
    return None if found is None else str(found)


def last_heartbeat(trial: FrozenTrial) -> float | None:
    """Return when a trial's worker was last heard of, by the server's clock, or None."""
    found = trial.user_attrs.get(HEARTBEAT)
    return None if found is None else float(found)


def losses(trial: FrozenTrial) -> dict[str, int]:
    """Return at which number of ``folds`` a trial lost its worker last, and how many ``times``."""
    return dict(trial.user_attrs.get(LOST, {}))


def error_text(trial: FrozenTrial) -> str | None:
    """Return the traceback that a failed trial left, or None."""
    found = trial.user_attrs.get(ERROR)
    return None if found is None else str(found)


def main_value(trial: FrozenTrial) -> float | None:
    """Return a trial's value of the study's first objective, or None if it has none."""
    return trial.values[0] if trial.values else None


def objective_value(trial: FrozenTrial, results: Sequence[FoldResult], objective: str) -> float:
    """Return one objective of a fully evaluated trial: a ``cv_`` metric or a stored cost."""
    if objective.startswith("cv_"):
        name = objective.removeprefix("cv_")
        return float(np.mean([result.metrics[name] for result in results]))
    return float(stored_costs(trial)[objective])


def last_error_line(trial: FrozenTrial) -> str:
    """Return the last line of the traceback that a failed trial left."""
    return (error_text(trial) or "unknown").strip().splitlines()[-1]


def last_failure(trials: Sequence[FrozenTrial]) -> str | None:
    """Return number and error of the latest failed trial; None where none failed."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    return f"trial {failed[-1].number}: {last_error_line(failed[-1])}" if failed else None


def best_trial(trials: list[FrozenTrial], direction: str) -> FrozenTrial | None:
    """Return the best fully evaluated trial (the earliest of equals), or None."""
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    sign = 1 if direction == "maximize" else -1
    return max(complete, key=lambda t: (sign * (main_value(t) or 0.0), -t.number), default=None)


def cv_metrics(results: Sequence[FoldResult]) -> dict[str, float]:
    """Return ``cv_`` means over folds of every metric, and ``cv_auc_std`` (sample deviation)."""
    means = {
        f"cv_{name}": float(np.mean([result.metrics[name] for result in results]))
        for name in results[0].metrics
    }
    values = [result.metrics["auc"] for result in results]
    means["cv_auc_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return means
