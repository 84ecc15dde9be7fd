"""Signs of life of the workers that share a server, each by the server's own clock.

Workers of a file are all on one machine, where they are asked for by their processes instead.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from busi_search.search.store.connection import grace_seconds, heartbeat_seconds
from busi_search.search.store.database import RetryingStorage
from busi_search.search.store.records import HEARTBEAT, last_heartbeat


def is_shared(storage: BaseStorage) -> bool:
    """Return whether a storage is on a server, which machines share."""
    return isinstance(storage, RetryingStorage)


def server_seconds(storage: BaseStorage) -> float | None:
    """Return the time by the clock of a server's storage; None for a file."""
    return storage.server_seconds() if isinstance(storage, RetryingStorage) else None


def record_heartbeat(storage: BaseStorage, trial_id: int) -> None:
    """Show once that a trial is being worked on; nothing on a file."""
    if (now := server_seconds(storage)) is not None:
        storage.set_trial_user_attr(trial_id, HEARTBEAT, now)


def is_silent(trial: FrozenTrial, now: float) -> bool:
    """Return whether nothing was heard of a trial's worker for so long that it counts as lost."""
    heard = last_heartbeat(trial)
    return heard is not None and now - heard > grace_seconds()


@contextmanager
def heartbeat(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Show other machines that a trial is being worked on, as long as the context lasts."""
    if not is_shared(storage):
        yield
        return
    ended, interval = threading.Event(), heartbeat_seconds()

    def beat() -> None:
        while not ended.wait(interval):
            # An outage is no reason to stop, nor is a trial that just ended.
            with suppress(Exception):
                record_heartbeat(storage, trial_id)
        with suppress(Exception):
            storage.remove_session()

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1)
