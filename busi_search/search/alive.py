"""A file that shows that a search is running, for a health check from outside."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ALIVE_VARIABLE = "BUSI_SEARCH_ALIVE_FILE"
TOUCH_SECONDS = 5.0


@contextmanager
def sign_of_life() -> Iterator[Callable[[], None]]:
    """Keep the file that ``BUSI_SEARCH_ALIVE_FILE`` names, as long as the context lasts.

    A container's health check looks at its age: it is old when the loop that watches the workers
    hangs. Before and after a search there is no file, and nothing to be judged. A file that cannot
    be written ends no search.

    Yields:
        What to call in every round of the loop; it touches the file every ``TOUCH_SECONDS``.
    """
    name = os.environ.get(ALIVE_VARIABLE)
    if not name:
        yield lambda: None
        return
    path = Path(name)
    touched = -TOUCH_SECONDS

    def touch() -> None:
        nonlocal touched
        if time.monotonic() - touched >= TOUCH_SECONDS:
            touched = time.monotonic()
            with suppress(OSError):
                path.touch()

    touch()
    try:
        yield touch
    finally:
        with suppress(OSError):
            path.unlink()
