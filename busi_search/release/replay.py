"""Training again: whether a trial is what its settings give, and what a leak would add."""

from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from busi_search.data.folds import make_folds
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.search.store.identity import environment
from busi_search.search.store.open import find_study
from busi_search.search.store.records import (
    HYPERPARAMETERS,
    best_of_study,
    cv_metrics,
    first_fold,
    stored_folds,
)
from busi_search.seeding import derive_seed
from busi_search.spec import Hyperparameters
from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.metrics import softmax

# A GPU sums in another order from call to call.
GPU_TOLERANCE = 0.02


@dataclass(frozen=True)
class Replay:
    """A trial, trained again.

    Attributes:
        trial: its number.
        folds: per fold ``fold``, ``stored_auc``, ``replayed_auc``, ``max_difference`` (largest
            difference of a probability) and ``identical`` (to the last bit).
        agrees: every fold is identical, or on a GPU within ``GPU_TOLERANCE``.
        differs: what is not as it was when the study began: name -> [then, now].
    """

    trial: int
    folds: list[dict[str, Any]]
    agrees: bool
    differs: dict[str, list[str]]


def _train(
    context: StudyContext,
    hyperparameters: Hyperparameters,
    trial: int,
    *,
    grouped: bool = True,
    first: int = 0,
    num_folds: int | None = None,
) -> list[FoldResult]:
    """Cross-validate a configuration as a trial of the study, or on folds that ignore groups.

    Trained are ``num_folds`` folds (default: all) from the one of index ``first`` on, in turn.
    """
    train_on_one_core()
    data, seed = development_set(context, hyperparameters), context.spec.study.seed
    if not grouped:
        alone = np.arange(len(data.labels))
        folds = make_folds(
            data.labels,
            alone,
            num_folds=len(data.folds),
            seed=derive_seed(seed, -1, -1, "folds"),
        )
        data = replace(data, groups=alone, folds=folds)
    steps = cross_validate(
        data,
        hyperparameters,
        study_seed=seed,
        trial_number=trial,
        device=context.device,
        cache=context.home.cache,
        first_fold=first,
    )
    return list(islice(fold_results(steps), num_folds))


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
    context = reopen_study(study, home=home, device=device)
    stored = stored_folds(trial, len(context.partition.folds))
    if not stored or HYPERPARAMETERS not in trial.user_attrs:
        raise InputError(f"Trial {number} of '{study_name}' finished no fold to compare with.")
    hyperparameters = Hyperparameters(**trial.user_attrs[HYPERPARAMETERS])
    first = first_fold(context.spec.study, number, len(context.partition.folds))
    again = _train(context, hyperparameters, number, first=first, num_folds=len(stored))
    rows = []
    for result in sorted(again, key=lambda result: result.fold):
        before = stored[result.fold]
        difference = softmax(result.log_probabilities) - softmax(before.log_probabilities)
        rows.append(
            {
                "fold": result.fold,
                "stored_auc": before.metrics["auc"],
                "replayed_auc": result.metrics["auc"],
                "max_difference": float(np.abs(difference).max()),
                "identical": bool(
                    np.array_equal(result.log_probabilities, before.log_probabilities)
                ),
            }
        )
    tolerance = 0.0 if device == "cpu" else GPU_TOLERANCE
    then, now = study.user_attrs["versions"], environment()
    return Replay(
        trial=number,
        folds=rows,
        agrees=all(row["identical"] or row["max_difference"] < tolerance for row in rows),
        differs={
            key: [str(then.get(key)), str(now.get(key))]
            for key in sorted({*then, *now})
            if then.get(key) != now.get(key)
        },
    )


@dataclass(frozen=True)
class LeakGap:
    """One configuration on folds that ignore near-duplicates and on folds that keep them together.

    Attributes:
        trial: whose configuration.
        random: ``cv_`` figures on random folds.
        grouped: on grouped folds; same images, seeds and everything else.
        num_split_groups: groups that the random folds tear apart.
    """

    trial: int
    random: dict[str, float]
    grouped: dict[str, float]
    num_split_groups: int


def measure_leak_gap(
    home: Home, study_name: str, number: int | None = None, *, device: str = "cpu"
) -> LeakGap:
    """Measure what leaking near-duplicates would add to a study's figures.

    Args:
        home: where the stores are.
        study_name: the study.
        number: trial whose configuration is used (default: the best).
        device: PyTorch's name of the device.

    Raises:
        InputError: no such study or trial, or the data is gone or changed.
    """
    study = find_study(home, study_name)
    if number is None:
        best = best_of_study(study)
        if best is None:
            raise InputError(f"Study '{study_name}' has no fully evaluated trial yet.")
        number = best.number
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials) or HYPERPARAMETERS not in trials[number].user_attrs:
        raise InputError(f"Study '{study_name}' has no trial {number} with a configuration.")
    context = reopen_study(study, home=home, device=device)
    hyperparameters = Hyperparameters(**trials[number].user_attrs[HYPERPARAMETERS])
    sizes = np.unique(context.groups, return_counts=True)[1]
    return LeakGap(
        trial=number,
        random=cv_metrics(_train(context, hyperparameters, number, grouped=False)),
        grouped=cv_metrics(_train(context, hyperparameters, number)),
        num_split_groups=int(np.sum(sizes > 1)),
    )
