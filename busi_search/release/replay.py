"""A trial trained again: whether it is what its settings give."""

from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import numpy as np

from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.search.prepare import device_of_worker
from busi_search.search.reopen import reopen_study
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.identity import environment
from busi_search.search.store.open import find_study
from busi_search.search.store.records import (
    first_fold,
    stored_hyperparameters,
    trial_hyperparameters,
)
from busi_search.search.store.study_record import StudyRecord
from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.determinism import train_deterministically
from busi_search.training.metrics import softmax

# A GPU sums in another order from call to call, unless study.deterministic holds it to one.
GPU_TOLERANCE = 0.02


@dataclass(frozen=True)
class ReplayedFold:
    """A fold, trained again.

    Attributes:
        fold: its index.
        stored_auc, replayed_auc: validation AUC then and now.
        max_difference: largest difference of a probability.
        identical: whether the predictions are the same to the last bit.
    """

    fold: int
    stored_auc: float
    replayed_auc: float
    max_difference: float
    identical: bool


@dataclass(frozen=True)
class Replay:
    """A trial, trained again.

    Attributes:
        trial: its number.
        folds: those that it had finished, in order.
        agrees: every fold is identical, or on a GPU within ``GPU_TOLERANCE``.
        differs: what is not as it was when the study began: name -> (then, now).
    """

    trial: int
    folds: tuple[ReplayedFold, ...]
    agrees: bool
    differs: dict[str, tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        """Return the replay as ``busi-search replay --json`` prints it."""
        return {
            "trial": self.trial,
            "folds": [asdict(fold) for fold in self.folds],
            "agrees": self.agrees,
            "differs": {key: list(found) for key, found in self.differs.items()},
        }


def replay_trial(home: Home, study_name: str, number: int, *, device: str = "cpu") -> Replay:
    """Train a trial again from what is stored and compare every finished fold.

    Args:
        home: where the stores are.
        study_name: the study.
        number: of the trial.
        device: PyTorch's name of the device.

    Raises:
        InputError: no such study or trial, nothing to compare, or the data is gone or changed.
    """
    study = find_study(home, study_name)
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise InputError(f"Study '{study_name}' has no trial {number}; it has {len(trials)}.")
    trial = trials[number]
    context = reopen_study(study, home=home, device=device_of_worker(device, 0))
    stored = stored_folds(trial, len(context.partition.folds))
    if not stored or not stored_hyperparameters(trial):
        raise InputError(f"Trial {number} of '{study_name}' finished no fold to compare with.")
    train_on_one_core()
    train_deterministically(context.device, wanted=context.spec.study.deterministic)
    hyperparameters = trial_hyperparameters(trial)
    steps = cross_validate(
        development_set(context, hyperparameters),
        hyperparameters,
        study_seed=context.spec.study.seed,
        trial_number=number,
        device=context.device,
        cache=context.home.cache,
        first_fold=first_fold(context.spec.study, number, len(context.partition.folds)),
    )
    again = islice(fold_results(steps), len(stored))
    folds = sorted(
        (_compare(stored[result.fold], result) for result in again),
        key=lambda compared: compared.fold,
    )
    tolerance = 0.0 if device == "cpu" else GPU_TOLERANCE
    then = StudyRecord(study).versions
    now = environment(with_timm="timm" in then)
    return Replay(
        trial=number,
        folds=tuple(folds),
        agrees=all(fold.identical or fold.max_difference < tolerance for fold in folds),
        differs={
            key: (str(then.get(key)), str(now.get(key)))
            for key in sorted({*then, *now})
            if then.get(key) != now.get(key)
        },
    )


def _compare(before: FoldResult, again: FoldResult) -> ReplayedFold:
    difference = softmax(again.log_probabilities) - softmax(before.log_probabilities)
    return ReplayedFold(
        fold=again.fold,
        stored_auc=before.metrics["auc"],
        replayed_auc=again.metrics["auc"],
        max_difference=float(np.abs(difference).max()),
        identical=bool(np.array_equal(again.log_probabilities, before.log_probabilities)),
    )
