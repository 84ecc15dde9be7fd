"""The Optuna storage: the one place where workers meet and where results are kept."""

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState
from sqlalchemy.exc import SQLAlchemyError

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home, without_password
from busi_search.search.records import WORKER

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def open_storage(home: Home) -> BaseStorage:
    """Open the storage, creating its tables on first use; SQLite is put into WAL mode.

    Raises:
        BusiSearchError: the storage cannot be reached or is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    local = home.has_local_storage
    options: dict[str, Any] = (
        {"connect_args": {"timeout": 60}} if local else {"pool_pre_ping": True}
    )
    lock: AbstractContextManager[Any] = (
        FileLock(home.root / "optuna.lock") if local else nullcontext()
    )
    try:
        with lock:
            storage = RDBStorage(home.storage_url, engine_kwargs=options)
            if local:
                sqlalchemy.event.listen(storage.engine, "connect", _use_wal)
                storage.engine.dispose()
                with storage.engine.connect() as connection:
                    connection.exec_driver_sql("PRAGMA schema_version")
    except (SQLAlchemyError, ImportError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BusiSearchError(
            f"The Optuna storage {without_password(home.storage_url)} cannot be opened: {reason}"
        ) from None
    return optuna.storages.get_storage(storage)


def find_study(home: Home, name: str) -> optuna.Study:
    """Open a study that was run on a home.

    Raises:
        InputError: no such study; the sentence lists those there are.
    """
    storage = open_storage(home)
    try:
        return optuna.load_study(study_name=name, storage=storage)
    except KeyError:
        known = ", ".join(sorted(optuna.get_all_study_names(storage))) or "none yet"
        raise InputError(f"No study '{name}' in {home.root}; studies here: {known}.") from None


def _use_wal(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def claim_lock(home: Home, name: str) -> AbstractContextManager[Any]:
    """Return the lock under which trials are claimed; SQLite has no row locks of its own."""
    if not home.has_local_storage:
        return nullcontext()
    folder = home.study_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / "claim.lock")


def claim_trial(
    study: optuna.Study,
    storage: BaseStorage,
    lock: AbstractContextManager[Any],
    *,
    target: int,
    worker: str = "",
) -> optuna.Trial | None:
    """Take the next trial to work on, or None when enough are finished or under way.

    Waiting trials come first: those asked for by name, and those whose worker was lost.

    Args:
        study: the study.
        storage: its storage.
        lock: held while counting and claiming, so that workers do not overshoot.
        target: number of finished trials the study shall hold.
        worker: who takes it; written before anybody can see the trial as taken.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    with lock:
        trials = study.get_trials(deepcopy=False)
        counted = (*FINISHED, TrialState.RUNNING)
        if sum(trial.state in counted for trial in trials) >= target:
            return None
        for trial in trials:
            if trial.state == TrialState.WAITING:
                trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
                storage.set_trial_user_attr(trial_id, WORKER, worker)
                if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                    return optuna.Trial(study, trial_id)
        trial_id = storage.create_new_trial(study_id)
        storage.set_trial_user_attr(trial_id, WORKER, worker)
        return optuna.Trial(study, trial_id)


def release_orphans(study: optuna.Study, storage: BaseStorage) -> list[int]:
    """Put trials that no worker is working on back into the queue, under their own numbers.

    Only for a caller who knows that no worker of this study is alive.

    Returns:
        Numbers of the trials put back; their finished folds are kept.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    numbers = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
        storage.set_trial_state_values(trial_id, TrialState.WAITING)
        numbers.append(trial.number)
    return numbers
