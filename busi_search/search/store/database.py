"""An Optuna storage on a PostgreSQL server: calls that outlive an outage, locks, heartbeats."""

import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar

import sqlalchemy
from optuna.storages import RDBStorage
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.pool import NullPool

T = TypeVar("T")

DIALECT = "postgresql"
GRACE_VARIABLE = "BUSI_SEARCH_GRACE_SECONDS"
# Without a word from its worker for so long, a trial counts as lost.
DEFAULT_GRACE_SECONDS = 300.0


def grace_seconds() -> float:
    """Return after how many seconds without a heartbeat a trial is taken from its worker."""
    try:
        return max(5.0, float(os.environ.get(GRACE_VARIABLE, DEFAULT_GRACE_SECONDS)))
    except ValueError:
        return DEFAULT_GRACE_SECONDS


def heartbeat_seconds() -> float:
    """Return how often a worker shows that it is alive."""
    return grace_seconds() / 15


def retry_seconds() -> float:
    """Return how long a call waits for a server that is away; less than a trial's grace."""
    return grace_seconds() * 0.8


def engine_options() -> dict[str, Any]:
    """Return what connections need so that a machine that vanished is noticed within a minute.

    A holder of a lock that is gone must not hold up everybody else: the server ends connections
    without an answer, and transactions in which nothing happens.
    """
    settings = {
        "tcp_keepalives_idle": 15,
        "tcp_keepalives_interval": 5,
        "tcp_keepalives_count": 3,
        "idle_in_transaction_session_timeout": "60s",
    }
    return {
        "pool_pre_ping": True,
        "connect_args": {
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
            "connect_timeout": 10,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 30_000,
        },
    }


def connection_failed(error: BaseException) -> bool:
    """Return whether an error comes from a server that is away, restarts or cut the line."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        found = pending.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        if isinstance(found, (OperationalError, InterfaceError)):
            return True
        pending += [found.__cause__, found.__context__]
    return False


def persistently(action: Callable[[], T], forget: Callable[[], None] = lambda: None) -> T:
    """Do something with the server, again and again while it is away.

    Args:
        action: what to do; one that is done but not answered is done twice.
        forget: called between two attempts.

    Raises:
        Exception: what the action raised, if the server stayed away or it is another error.
    """
    deadline, pause = time.monotonic() + retry_seconds(), 0.1
    while True:
        try:
            return action()
        except Exception as error:
            if not connection_failed(error) or time.monotonic() + pause > deadline:
                raise
        forget()
        time.sleep(pause)
        pause = min(2 * pause, 5.0)


class ServerStorage(RDBStorage):
    """Optuna's storage whose every call is repeated while the server is away.

    A call that was done but whose answer was lost is done twice: attributes are written with the
    same value, a second end of a trial is refused, and a trial created twice is found by
    :func:`~busi_search.search.workers.put_back_lost`, for nobody owns it.
    """


def _retried(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: ServerStorage, *args: Any, **kwargs: Any) -> Any:
        return persistently(
            lambda: method(self, *args, **kwargs), partial(_forget_session, self.scoped_session)
        )

    return call


def _forget_session(session: scoped_session[Session]) -> None:
    """Begin anew with the next call; what is left of this transaction died with its connection."""
    try:
        session.remove()
    except SQLAlchemyError:
        # It tried to roll back over that connection.
        session.registry.clear()


# What Optuna's cache and Optuna itself call; each is one transaction.
for _name in (
    "create_new_study",
    "set_study_user_attr",
    "set_study_system_attr",
    "get_study_id_from_name",
    "get_study_name_from_id",
    "get_study_directions",
    "get_study_user_attrs",
    "get_study_system_attrs",
    "get_all_studies",
    "_create_new_trial",
    "_set_trial_param",
    "get_trial_id_from_study_id_trial_number",
    "_get_best_trial_id",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_trial_system_attr",
    "get_trial",
    "_get_trials",
    "record_heartbeat",
    "_get_stale_trial_ids",
):
    setattr(ServerStorage, _name, _retried(getattr(RDBStorage, _name)))


@functools.cache
def server_storage(url: str, *, heartbeat_interval: int, grace_period: int) -> ServerStorage:
    """Open a server's storage once in a process.

    Each has connections of its own, which go back to the server long after the last use; whoever
    asks for a study again and again would take all that the server has.
    """
    # Whoever comes first makes the tables; two at once would both fail.
    with ServerLock(url, "tables"):
        return ServerStorage(
            url,
            engine_kwargs=engine_options(),
            heartbeat_interval=heartbeat_interval,
            grace_period=grace_period,
        )


@functools.cache
def _lock_engine(url: str) -> Engine:
    # Few short connections, none of them shared with Optuna's sessions or with a forked process.
    return sqlalchemy.create_engine(url, poolclass=NullPool, **_without_pool(engine_options()))


def _without_pool(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if not key.startswith("pool_")}


def _key(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big", signed=True)


def check_answers(url: str) -> None:
    """Connect once, without patience: a wrong address is said at once.

    Raises:
        SQLAlchemyError: the server cannot be reached or refuses the connection.
    """
    _lock_engine(url).connect().close()


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
        connection = _lock_engine(self._url).connect()
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
    engine = _lock_engine(url).execution_options(isolation_level="AUTOCOMMIT")
    connection = persistently(engine.connect)
    try:
        taken = connection.execute(
            sqlalchemy.text("SELECT pg_try_advisory_lock(:key)"), {"key": _key(name)}
        )
        yield bool(taken.scalar())
    finally:
        _release(connection)
