"""Failures of a storage, as one sentence with a fix."""

from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from busi_search.errors import BusiSearchError, reason_of
from busi_search.home import Home, damage_of, without_password

STORAGE_FAILURES = (StorageInternalError, SQLAlchemyError)


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
            "wrong; fix it and run the same command again."
        ) from error


def check_storage(home: Home) -> None:
    """Refuse to search on a damaged database, before anything is written to it.

    Raises:
        BusiSearchError: SQLite finds it damaged.
    """
    if home.has_local_storage and (damage := damage_of(home.root / "optuna.db")) is not None:
        raise BusiSearchError(
            f"The Optuna storage {home.root / 'optuna.db'} is damaged ({damage}); restore it from "
            "a backup, or move it away with its -wal and -shm files to start again."
        )
