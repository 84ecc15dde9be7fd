"""Files and folders: named by users, written whole, and full disks as one sentence."""

import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from busi_search.errors import BusiSearchError, InputError

# Left free when a cache is built, for the stores that grow beside it.
SPARE_BYTES = 20_000_000


def user_path(written: str | Path) -> Path:
    """Return a path as a user wrote it, with ``~`` resolved; it need not exist.

    Raises:
        InputError: no file can have that name.
    """
    try:
        path = Path(written).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"{str(written)[:100]!r}: not a usable path ({reason}).") from None
    return path


def check_free_space(folder: Path, num_bytes: int) -> None:
    """Make sure that ``num_bytes`` fit into the disk of ``folder``, with some to spare.

    Raises:
        BusiSearchError: they do not.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes + SPARE_BYTES:
        needed = (num_bytes + SPARE_BYTES) / 1e6
        raise BusiSearchError(
            f"{folder}: {needed:.0f} MB are needed and {free / 1e6:.0f} MB are free; "
            "free some space, or use another disk with --home DIR."
        )


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn what a disk fails with into one sentence.

    Raises:
        BusiSearchError: the disk of ``folder`` is full, read-only or broken.
    """
    try:
        yield
    except OSError as error:
        raise BusiSearchError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); nothing "
            "half-written is left; free some space, or use another disk with --home DIR."
        ) from error


def write_file(target: str | Path, content: bytes) -> None:
    """Write a file the user named, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_atomically(Path(target), content)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}).") from None


def write_atomically(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path`` so that a reader sees the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def without_nan(value: Any) -> Any:
    """Return a JSON value whose numbers that are not finite are None: JSON knows no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: without_nan(found) for key, found in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(found) for found in value]
    return value
