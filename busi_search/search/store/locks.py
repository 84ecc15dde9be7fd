"""Who is at work on a study: locks in the home or on the server, which end with their holder."""

import hashlib
import shlex
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import sqlalchemy
from filelock import FileLock, Timeout
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.search.store.connection import persistently, plain_engine
from busi_search.search.store.errors import storage_errors

_WORKER_LOCK = "worker-{index}.lock"


def _folder(home: Home, name: str) -> Path:
    folder = home.study_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def claim_lock(home: Home, name: str) -> AbstractContextManager[Any]:
    """Return the lock under which a study's trials are claimed, for all who reach its storage."""
    return _lock(home, name, "claim")


def ledger_lock(home: Home, name: str) -> AbstractContextManager[Any]:
    """Return the lock under which a study's test ledger is compared and written."""
    return _lock(home, name, "ledger")


def _lock(home: Home, name: str, purpose: str) -> AbstractContextManager[Any]:
    if not home.has_local_storage:
        return ServerLock(home.storage_url, f"{purpose} {name}")
    # SQLite has no row locks of its own.
    return FileLock(_folder(home, name) / f"{purpose}.lock")


@contextmanager
def only_driver(home: Home, name: str) -> Iterator[None]:
    """Be the one process that may drive a study, as long as the context lasts.

    Raises:
        InputError: another process of this home, or of this storage, drives the study.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(_folder(home, name) / "driver.lock", timeout=0))
        except Timeout:
            raise InputError(
                f"Study '{name}' is being searched by another process on this home; wait for it, "
                "or begin another study with --name NEW."
            ) from None
        if not home.has_local_storage:
            with storage_errors(home):
                alone = stack.enter_context(only_one(home.storage_url, f"driver {name}"))
            if not alone:
                raise InputError(
                    f"Study '{name}' is being searched from another machine or home; "
                    f"`busi-search worker {shlex.quote(name)}` helps it, or begin another study "
                    "with --name NEW."
                )
        yield


def worker_lock(home: Home, name: str, index: int) -> FileLock:
    """Return the lock that a worker holds while it is alive."""
    return FileLock(_folder(home, name) / _WORKER_LOCK.format(index=index))


def wait_for_old_workers(home: Home, name: str, *, seconds: float = 15) -> None:
    """Wait until workers of a driver that was killed have noticed and ended.

    Raises:
        BusiSearchError: one is still alive after ``seconds``.
    """
    for path in _folder(home, name).glob(_WORKER_LOCK.format(index="*")):
        try:
            with FileLock(path, timeout=seconds):
                pass
        except Timeout:
            raise BusiSearchError(
                f"A worker of an earlier run is still alive and holds {path}; end it and try again."
            ) from None


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


class ServerLock:
    """A lock that all users of a server share; it ends with the connection of who holds it.

    If the server restarts while the lock is held, somebody else may get it: what is done under it
    must be safe to be done twice, only not exact.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url, self._key = url, _key(name)
        self._connection: Connection | None = None

    def __enter__(self) -> Self:
        self._connection = persistently(self._acquire)
        return self

    def _acquire(self) -> Connection:
        connection = plain_engine(self._url).connect()
        try:
            connection.execute(
                sqlalchemy.text("SELECT pg_advisory_xact_lock(:key)"), {"key": self._key}
            )
        except BaseException:
            connection.close()
            raise
        return connection

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._connection is not None, "only a lock that is held is released"
        connection, self._connection = self._connection, None
        _release(connection)


def _release(connection: Connection) -> None:
    """Close a connection, and so end its transaction and its locks; the server may be away."""
    try:
        connection.close()
    except SQLAlchemyError:
        # The server ended it, or will: the lock is gone with it. It is not to be used again.
        with suppress(SQLAlchemyError):
            connection.invalidate()


@contextmanager
def only_one(url: str, name: str) -> Iterator[bool]:
    """Say whether nobody else on this server is within a context of this name.

    Yields:
        True if the caller is alone with it now, and until the context ends or the server restarts.
    """
    engine = plain_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    connection = persistently(engine.connect)
    try:
        taken = connection.execute(
            sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(name)}
        )
        yield bool(taken.scalar())
    finally:
        _release(connection)
