"""Progress of slow work, for callers that want to show it."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

T = TypeVar("T")
# Called with what is done (such as "images read"), how many are done and how many there are.
Listener = Callable[[str, int, int], None]
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Have a listener called while something slow is done inside the ``with`` block."""
    before = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(before)


@contextmanager
def counted_part(what: str, done: int, total: int) -> Iterator[None]:
    """Tell the listener that a part of something slow begins, and then that it is done.

    Args:
        what: is being done, such as "storing features".
        done: how many parts were done before.
        total: how many parts there are.
    """
    _tell(what, done, total)
    yield
    _tell(what, done + 1, total)


def counted(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield the items, and tell the listener that they begin, and of each that is done.

    Args:
        items: what is worked on.
        what: has been done to those behind us, such as "images read".
        total: how many there are.
    """
    _tell(what, 0, total)
    for done, item in enumerate(items, start=1):
        yield item
        _tell(what, done, total)


def _tell(what: str, done: int, total: int) -> None:
    if (listener := _listener.get()) is not None:
        listener(what, done, total)
