"""How to reach a PostgreSQL server, and how to outlive an outage of it."""

import functools
import os
from collections.abc import Callable
from typing import Any, TypeVar

import sqlalchemy
from sqlalchemy.engine import Engine
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.pool import NullPool
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_before_delay
from tenacity.wait import wait_exponential

T = TypeVar("T")

DIALECT = "postgresql"
GRACE_VARIABLE = "BUSI_SEARCH_GRACE_SECONDS"
# Without a word from its worker for so long, a trial counts as lost.
DEFAULT_GRACE_SECONDS = 300.0
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0


def grace_seconds() -> float:
    """Return after how many seconds without a heartbeat a trial is taken from its worker."""
    try:
        return max(5.0, float(os.environ.get(GRACE_VARIABLE, DEFAULT_GRACE_SECONDS)))
    except ValueError:
        return DEFAULT_GRACE_SECONDS


def heartbeat_seconds() -> float:
    """Return how often a worker shows that it is alive."""
    return max(1.0, grace_seconds() / 15)


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


@functools.cache
def plain_engine(url: str) -> Engine:
    """Return an engine of few short connections, none shared with Optuna's or a forked process."""
    options = {k: v for k, v in engine_options().items() if not k.startswith("pool_")}
    return sqlalchemy.create_engine(url, poolclass=NullPool, **options)


def check_answers(url: str) -> None:
    """Connect once, without patience: a wrong address is said at once.

    Raises:
        SQLAlchemyError: the server cannot be reached or refuses the connection.
    """
    plain_engine(url).connect().close()


def connection_failed(error: BaseException) -> bool:
    """Return whether an error comes from a server that is away, restarts or cut the line."""
    if not isinstance(error, Exception):
        # An interrupt in the middle of an outage ends the waiting.
        return False
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

    def before_sleep(_state: RetryCallState) -> None:
        forget()

    return Retrying(
        retry=retry_if_exception(connection_failed),
        stop=stop_before_delay(retry_seconds()),
        wait=wait_exponential(multiplier=FIRST_PAUSE_SECONDS, max=LONGEST_PAUSE_SECONDS),
        before_sleep=before_sleep,
        reraise=True,
    )(action)
