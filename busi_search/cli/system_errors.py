"""System errors, wherever they come from, as one sentence with a fix."""

import errno
import sqlite3
from collections.abc import Iterator

from busi_search.errors import BusiSearchError, InputError, reason_of

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_WRONG_PATH = (
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENOENT,
    errno.EEXIST,
    errno.EINVAL,
)


def system_error(error: BaseException) -> BusiSearchError:
    """Return what a user can do about an error that no part of the program foresaw.

    Args:
        error: as it was caught; what caused it is looked at as well.
    """
    for link in _chain(error):
        if isinstance(link, OSError) and link.errno is not None:
            return _os_error(link)
        if isinstance(link, sqlite3.Error):
            return BusiSearchError(
                f"A database of the home failed ({reason_of(link)}); `busi-search doctor` says "
                "which one, and how to fix it."
            )
        if isinstance(link, MemoryError):
            return BusiSearchError("Out of memory; close other programs, or use fewer --workers.")
    return BusiSearchError(
        f"Unexpected {type(error).__name__}: {reason_of(error)}. "
        "Run again with --debug for the traceback."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _os_error(error: OSError) -> BusiSearchError:
    where = f"{error.filename}: " if error.filename else ""
    reason = error.strerror or str(error)
    if error.errno in _FULL:
        return BusiSearchError(
            f"{where}the disk is full ({reason}); free some space, then run the same command again."
        )
    if error.errno in _FORBIDDEN:
        return InputError(
            f"{where}{reason}; use files you may read and a home you may write to (--home DIR)."
        )
    if error.errno in _WRONG_PATH and error.filename:
        return InputError(f"{where}{reason}.")
    return BusiSearchError(f"{where}{reason}; run again with --debug for the traceback.")
