"""When failing trials end a search, and when their count is reset."""

from collections.abc import Sequence

import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.records import last_error_line
from busi_search.search.store.study_record import StudyRecord

MAX_FAILURES_IN_A_ROW = 5
# Failures of several kinds in a row: the space is hopeless, whatever the reason.
MAX_MIXED_FAILURES_IN_A_ROW = 10


def failing(study: optuna.Study, trials: Sequence[FrozenTrial] | None = None) -> str | None:
    """Return the last error line if the latest trials all failed in the same way, else None.

    Trials that had failed when the driver began are not counted: running it again retries.

    Args:
        study: the study.
        trials: its trials, where the caller has just read them.
    """
    if trials is None:
        trials = study.get_trials(deepcopy=False)
    if not any(trial.state == TrialState.FAIL for trial in trials):
        return None
    forgiven = StudyRecord(study).forgiven
    ended = [
        trial for trial in trials if trial.state.is_finished() and trial.number not in forgiven
    ]
    ended.sort(key=lambda t: (t.datetime_complete is None, t.datetime_complete))
    kinds = [_kind_of_failure(trial) for trial in ended]
    last = kinds[-MAX_FAILURES_IN_A_ROW:]
    same = len(last) == MAX_FAILURES_IN_A_ROW and len(set(last)) == 1
    many = kinds[-MAX_MIXED_FAILURES_IN_A_ROW:]
    mixed = len(many) == MAX_MIXED_FAILURES_IN_A_ROW and None not in many
    if (same and last[-1] is not None) or mixed:
        return last_error_line(ended[-1])
    return None


def _kind_of_failure(trial: FrozenTrial) -> str | None:
    """Name of the error that a trial raised, without its message, which may hold figures."""
    return last_error_line(trial).partition(":")[0] if trial.state == TrialState.FAIL else None


def forgive_failures(study: optuna.Study) -> None:
    """Reset the count of failures; for a driver that begins."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    if numbers := [trial.number for trial in failed]:
        StudyRecord(study).forgive(numbers)
