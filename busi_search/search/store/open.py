"""The Optuna storage: the one place where workers meet and where results are kept."""

import warnings
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from optuna.storages._heartbeat import is_heartbeat_enabled
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from busi_search.errors import BusiSearchError, InputError, reason_of
from busi_search.home import Home, without_password
from busi_search.search.store.faults import failing
from busi_search.search.store.records import FINISHED, WORKER, worker_of


def open_storage(home: Home, *, patient: bool = False) -> BaseStorage:
    """Open the storage, creating its tables on first use; SQLite is put into WAL mode.

    Args:
        home: says where it is.
        patient: wait for a server that is away, as a worker does that is started in an outage.

    Raises:
        InputError: the address is of no kind of database that is supported.
        BusiSearchError: the storage cannot be reached or is damaged.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    shown = without_password(home.storage_url)
    try:
        storage = (
            _open_file(home) if home.has_local_storage else _open_server(home.storage_url, patient)
        )
    except ImportError:
        raise InputError(
            f"The Optuna storage {shown} needs psycopg: pip install 'busi-search[postgresql]'."
        ) from None
    except (SQLAlchemyError, RuntimeError, AssertionError) as error:
        raise BusiSearchError(
            f"The Optuna storage {shown} cannot be opened: {reason_of(error)}"
        ) from None
    return optuna.storages.get_storage(storage)


def _open_file(home: Home) -> RDBStorage:
    with FileLock(home.root / "optuna.lock"):
        storage = RDBStorage(home.storage_url, engine_kwargs={"connect_args": {"timeout": 60}})
        sqlalchemy.event.listen(storage.engine, "connect", _use_wal)
        storage.engine.dispose()
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA schema_version")
    return storage


def _open_server(url: str, patient: bool) -> RDBStorage:
    from busi_search.search.store import database

    if sqlalchemy.make_url(url).get_backend_name() != database.DIALECT:
        raise InputError(
            f"--storage {without_password(url)}: only SQLite (the home's own, if left out) and "
            "PostgreSQL are supported: postgresql+psycopg://USER@HOST/DATABASE."
        )

    connect = partial(
        database.server_storage,
        url,
        heartbeat_interval=max(1, round(database.heartbeat_seconds())),
        grace_period=round(database.grace_seconds()),
    )
    if patient:
        return database.persistently(connect)
    database.check_answers(url)
    return connect()


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
    """Return the lock under which a study's trials are claimed, for all who reach its storage."""
    if not home.has_local_storage:
        from busi_search.search.store.database import ServerLock

        return ServerLock(home.storage_url, f"claim {name}")
    folder = home.study_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    # SQLite has no row locks of its own.
    return FileLock(folder / "claim.lock")


def claim_trial(
    study: optuna.Study,
    storage: BaseStorage,
    lock: AbstractContextManager[Any],
    *,
    target: int,
    worker: str = "",
) -> optuna.Trial | None:
    """Take the next trial to work on, or None when enough are finished or under way, or all fail.

    Waiting trials come first: those asked for by name, and those whose worker was lost.

    Args:
        study: the study.
        storage: its storage.
        lock: held while counting and claiming, so that workers do not overshoot.
        target: number of finished trials the study shall hold.
        worker: who takes it; written before anybody can see the trial as taken.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    beating = is_heartbeat_enabled(storage)
    with lock:
        while True:
            trials = study.get_trials(deepcopy=False)
            states = [trial.state for trial in trials]
            enough = sum(map(states.count, (*FINISHED, TrialState.RUNNING))) >= target
            if enough or failing(study, trials):
                return None
            trial_id = _take_waiting(storage, study_id, trials, worker, beating=beating)
            if trial_id is None:
                trial_id = storage.create_new_trial(study_id)
                if beating:
                    storage.record_heartbeat(trial_id)  # type: ignore[attr-defined]
                storage.set_trial_user_attr(trial_id, WORKER, worker)
            # A server that restarts forgets who held the lock: somebody may have been quicker.
            if not beating or is_owner(storage, trial_id, worker):
                return optuna.Trial(study, trial_id)


def _take_waiting(
    storage: BaseStorage, study_id: int, trials: list[FrozenTrial], worker: str, *, beating: bool
) -> int | None:
    for trial in trials:
        if trial.state == TrialState.WAITING:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            if beating:
                # Before anybody could think that its last owner's heart is still to be heard.
                storage.record_heartbeat(trial_id)  # type: ignore[attr-defined]
            storage.set_trial_user_attr(trial_id, WORKER, worker)
            if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return trial_id
    return None


def is_owner(storage: BaseStorage, trial_id: int, worker: str) -> bool:
    """Return whether a trial is still this worker's to work on."""
    trial = storage.get_trial(trial_id)
    return trial.state == TrialState.RUNNING and worker_of(trial) == worker
