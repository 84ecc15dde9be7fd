"""What a trial keeps of its folds, and what is read from them."""

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.fold_result import FoldResult
from busi_search.search.store.records import UNFINISHED_FOLD, UnfinishedFold, num_epochs

_FOLD = "fold"
# Folds are Optuna's system attributes, which it keeps as well and its dashboard does not show or
# send: they are long. Earlier versions made user attributes of them.
_SYSTEM = "busi:"


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


def unfinished_fold(trial: FrozenTrial) -> UnfinishedFold | None:
    """Return the fold within which a trial was stopped; None if it ended after a whole one."""
    return UnfinishedFold(**trial.user_attrs[UNFINISHED_FOLD]) if _broke_off(trial) else None


def _broke_off(trial: FrozenTrial) -> bool:
    stored = trial.user_attrs.get(UNFINISHED_FOLD)
    # With the whole fold beside it, its worker was killed while giving it up; the next one went on.
    return stored is not None and stored_fold(trial, stored["fold"]) is None


def write_fold(storage: BaseStorage, trial_id: int, result: FoldResult) -> None:
    """Keep a finished fold; predictions keep every bit.

    Args:
        storage: where the trial is kept.
        trial_id: its name there.
        result: of the fold.
    """
    key = f"{_SYSTEM}{fold_key(result.fold)}"
    storage.set_trial_system_attr(trial_id, key, encode_fold(result))


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
