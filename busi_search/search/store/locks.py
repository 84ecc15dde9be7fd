"""Who is at work on a study: file locks in the home, which end with the process that holds them."""

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.search.store.faults import storage_errors

_WORKER_LOCK = "worker-{index}.lock"


def _folder(home: Home, name: str) -> Path:
    folder = home.study_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


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
            from busi_search.search.store.database import only_one

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
