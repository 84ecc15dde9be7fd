"""When the tracking store does not answer: short calls, one kind of error, pauses that grow."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from busi_search.errors import TrackingAway, reason_of
from busi_search.home import Home, without_password

CALL_SECONDS = 10
FIRST_PAUSE_SECONDS = 5.0
LONGEST_PAUSE_SECONDS = 60.0


@contextmanager
def brief_calls(seconds: int = CALL_SECONDS) -> Iterator[None]:
    """Bound every call to a tracking server: ``seconds`` for an answer, no second attempt.

    MLflow repeats requests that create a run as well, and may create it twice; who wants to try
    again looks first what is there.
    """
    bounds = {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(seconds),
    }
    before = {name: os.environ.get(name) for name in bounds}
    os.environ.update(bounds)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def tracking_errors(home: Home) -> Iterator[None]:
    """Turn whatever a tracking store fails with into one sentence.

    Raises:
        TrackingAway: it cannot be reached, written to, or refuses a call.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingAway(
            f"The tracking store {without_password(home.tracking_uri)} failed: {reason_of(error)}"
        ) from error


class Pause:
    """Says when a store that did not answer may be asked again: after 5, 10, 20, … 60 seconds."""

    def __init__(self) -> None:
        self._seconds: float = 0.0
        self._until: float = 0.0

    def over(self) -> bool:
        """Return whether it is time to ask."""
        return time.monotonic() >= self._until

    def lengthen(self) -> None:
        """Begin a pause twice as long as the one before."""
        doubled = max(FIRST_PAUSE_SECONDS, 2 * self._seconds)
        self._seconds = min(LONGEST_PAUSE_SECONDS, doubled)
        self._until = time.monotonic() + self._seconds

    def reset(self) -> None:
        """The store answered."""
        self._seconds = self._until = 0.0
