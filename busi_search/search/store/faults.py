"""What a search does about faults: failing trials, a broken storage, other code."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from busi_search.errors import BusiSearchError, InputError, reason_of
from busi_search.home import Home, damage_of, without_password
from busi_search.search.store.records import last_error_line
from busi_search.search.store.study_record import StudyRecord

STORAGE_FAILURES = (StorageInternalError, SQLAlchemyError)
MAX_FAILURES_IN_A_ROW = 5
# Failures of several kinds in a row: the space is hopeless, whatever the reason.
MAX_MIXED_FAILURES_IN_A_ROW = 10
# Packages whose version a score may depend on; others may change within a study.
DECISIVE_PACKAGES = ("busi-search", "torch", "torchvision", "numpy", "scikit-learn")


@contextmanager
def storage_errors(home: Home) -> Iterator[None]:
    """Turn whatever the Optuna storage fails with into one sentence with the way out.

    Raises:
        BusiSearchError: the storage cannot be read or written to.
    """
    try:
        yield
    except STORAGE_FAILURES as error:
        cause: BaseException = error
        while isinstance(cause.__cause__, SQLAlchemyError):
            cause = cause.__cause__
        raise BusiSearchError(
            f"The Optuna storage {without_password(home.storage_url)} failed "
            f"({reason_of(cause)}); `busi-search doctor` says what is "
            "wrong, and when it is mended the same line goes on."
        ) from error


def check_storage(home: Home) -> None:
    """Refuse to search on a damaged database, before anything is written to it.

    Raises:
        BusiSearchError: SQLite finds it damaged.
    """
    if home.has_local_storage and (damage := damage_of(home.root / "optuna.db")) is not None:
        raise BusiSearchError(
            f"The Optuna storage {home.root / 'optuna.db'} is damaged ({damage}); restore it from "
            "a backup, or move it away with its -wal and -shm files to begin anew."
        )


def failing(study: optuna.Study, trials: Sequence[FrozenTrial] | None = None) -> str | None:
    """Return the last error line if the latest trials all failed in the same way, else None.

    Trials that had failed when the driver began are not counted: the same line tries again.

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
    """Begin to count failures anew; for a driver that begins."""
    failed = study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
    if numbers := [trial.number for trial in failed]:
        StudyRecord(study).forgive(numbers)


def decisive_versions() -> dict[str, str]:
    """Return the versions that scores may depend on, without the label of a build (+cpu)."""
    return {name: version(name).partition("+")[0] for name in DECISIVE_PACKAGES}


def check_versions(study: optuna.Study) -> None:
    """Make sure that trials still to come are computed by the code that computed those there.

    Raises:
        InputError: a decisive package has another version than when the study began.
    """
    then = {
        name: str(number).partition("+")[0] for name, number in StudyRecord(study).versions.items()
    }
    changed = [
        f"{name} {then[name]} → {now}"
        for name, now in decisive_versions().items()
        if name in then and then[name] != now
    ]
    if changed:
        raise InputError(
            f"Study '{study.study_name}' began with other code ({', '.join(changed)}): its trials "
            "would not be comparable; install what it began with, or begin another with --name NEW."
        )


def lost_workers(home: Home, study: optuna.Study, finished: int, target: int) -> BusiSearchError:
    """Return why all workers ended before the study held its trials.

    Raises:
        BusiSearchError: the storage cannot be written to; that is why.
    """
    with storage_errors(home):
        StudyRecord(study).set_missing(target - finished)
    return BusiSearchError(
        f"All workers died with {finished} of {target} trials finished, often for lack of memory "
        "or because somebody ended them; the same line goes on, with fewer --workers if need be."
    )
