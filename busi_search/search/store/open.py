"""The Optuna storage: the one place where workers meet and where results are kept."""

import warnings
from functools import partial
from typing import Any

import optuna
import sqlalchemy
from filelock import FileLock
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.exc import SQLAlchemyError

from busi_search.errors import BusiSearchError, InputError, reason_of
from busi_search.home import Home, without_password
from busi_search.search.store.connection import DIALECT, check_answers, persistently
from busi_search.search.store.database import RetryingStorage, server_storage


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
        if home.has_local_storage:
            return optuna.storages.get_storage(_open_file(home))
        return _open_server(home.storage_url, patient)
    except ImportError:
        raise InputError(
            f"The Optuna storage {shown} needs psycopg: pip install 'busi-search[postgresql]'."
        ) from None
    except (SQLAlchemyError, RuntimeError, AssertionError) as error:
        raise BusiSearchError(
            f"The Optuna storage {shown} cannot be opened: {reason_of(error)}"
        ) from None


def _open_file(home: Home) -> RDBStorage:
    with FileLock(home.root / "optuna.lock"):
        storage = RDBStorage(home.storage_url, engine_kwargs={"connect_args": {"timeout": 60}})
        sqlalchemy.event.listen(storage.engine, "connect", _use_wal)
        storage.engine.dispose()
        with storage.engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA schema_version")
    return storage


def _open_server(url: str, patient: bool) -> RetryingStorage:
    if sqlalchemy.make_url(url).get_backend_name() != DIALECT:
        raise InputError(
            f"--storage {without_password(url)}: only SQLite (the home's own, if left out) and "
            "PostgreSQL are supported: postgresql+psycopg://USER@HOST/DATABASE."
        )
    if patient:
        return persistently(partial(server_storage, url))
    check_answers(url)
    return server_storage(url)


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
