"""Trials that another program or study added to a study: ignored, with a message."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.records import (
    FINISHED,
    HYPERPARAMETERS,
    WORKER,
    best_trial,
    main_value,
    stored_fold,
    stored_indices,
)
from busi_search.search.store.study_record import StudyRecord
from busi_search.wording import count_of


def is_foreign(trial: FrozenTrial, sizes: Sequence[int] | None = None) -> bool:
    """Return whether a finished trial was put into a study by another program or another study.

    It lacks what a search leaves of a trial: nothing can be shown, compared or trained again.

    Args:
        trial: in any state.
        sizes: how many images each fold of the study is scored on, where that is known.
    """
    if trial.state not in FINISHED:
        return False
    if sizes is not None and not _fits(trial, sizes):
        return True
    if HYPERPARAMETERS not in trial.user_attrs:
        # Whoever claims a trial signs it.
        return WORKER not in trial.user_attrs
    folds = stored_indices(trial)
    whole = bool(folds) and folds == list(range(len(folds)))
    return trial.state == TrialState.COMPLETE and not (whole and main_value(trial) is not None)


def _fits(trial: FrozenTrial, sizes: Sequence[int]) -> bool:
    """Return whether the folds of a trial are folds of the study, of as many images."""
    if HYPERPARAMETERS not in trial.user_attrs:
        return False
    folds = stored_indices(trial)
    if trial.state == TrialState.COMPLETE and len(folds) != len(sizes):
        return False
    return all(
        fold < len(sizes) and _num_rows(stored_fold(trial, fold) or {}) == sizes[fold]
        for fold in folds
    )


def _num_rows(stored: Mapping[str, Any]) -> int | None:
    try:
        coded, num_classes = str(stored["log_probabilities"]), int(stored["num_classes"])
        # Base64: four characters are three bytes; a number is four bytes.
        return (len(coded) // 4 * 3 - coded[-2:].count("=")) // (4 * num_classes)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None


def foreign_numbers(trials: Iterable[FrozenTrial], sizes: Sequence[int] | None = None) -> list[int]:
    """Return the numbers of the trials that another program or study made; see is_foreign."""
    return [trial.number for trial in trials if is_foreign(trial, sizes)]


def foreign_sentence(numbers: Sequence[int]) -> str:
    """Return the message about trials that were made elsewhere; at least one."""
    shown = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
    return (
        f"Ignored {count_of(len(numbers), 'trial')} not made by this search ({shown}), without its "
        "folds and hyperparameters"
    )


def own_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials of a study, by number, without foreign ones.

    Of a study that never began, which is none of busi-search's, all are returned.
    """
    trials, record = study.get_trials(deepcopy=False), StudyRecord(study)
    foreign = set(foreign_numbers(trials, record.fold_sizes))
    if not foreign or not record.has_begun:
        return trials
    return [trial for trial in trials if trial.number not in foreign]


def foreign_trials(study: optuna.Study) -> list[int]:
    """Return the numbers of the foreign trials of a study; none of one that never began."""
    record = StudyRecord(study)
    found = foreign_numbers(study.get_trials(deepcopy=False), record.fold_sizes)
    return found if found and record.has_begun else []


def best_of_study(study: optuna.Study) -> FrozenTrial | None:
    """Return a study's best fully evaluated trial by its first objective, or None."""
    minimise = study.directions[0] == optuna.study.StudyDirection.MINIMIZE
    return best_trial(own_trials(study), "minimize" if minimise else "maximize")
