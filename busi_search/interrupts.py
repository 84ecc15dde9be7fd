"""Interrupts that wait until a write has ended."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from busi_search.errors import Interrupted


class _Writes:
    """How many writes the main thread is within, and the interrupt that came meanwhile."""

    depth = 0
    waiting: Interrupted | None = None


_writes = _Writes()


@contextmanager
def interrupts_wait() -> Iterator[None]:
    """Let what is inside end before an interrupt is raised; for short writes only.

    An interrupt in the middle of a commit leaves the transaction of an SQLite file open, and
    the next writer, even the same process, waits for its lock until it times out. Outside of the
    main thread nothing changes: interrupts are raised there and nowhere else.

    Raises:
        Interrupted: on leaving, if one came meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _writes.depth += 1
    try:
        yield
    finally:
        _writes.depth -= 1
        if _writes.depth == 0 and _writes.waiting is not None:
            error, _writes.waiting = _writes.waiting, None
            raise error


def interrupt(error: Interrupted) -> None:
    """Raise an interrupt, or keep it until the write that is under way has ended.

    Raises:
        Interrupted: nothing is being written.
    """
    if _writes.depth == 0:
        raise error
    _writes.waiting = error
