"""Files and folders: named by users, written whole, and full disks as one sentence."""

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from busi_search.errors import BusiSearchError, InputError

# Left free when a cache is built, for the stores that grow beside it.
SPARE_BYTES = 20_000_000
# `.NAME.json.` and eight characters that `tempfile` drew, or `STEM.`, a process number and `.tmp`.
_TEMPORARY = re.compile(r"\..+\.json\.[a-z0-9_]{8}|[^.].*\.\d+\.tmp")


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


def ensure_temporary_room(fallback: Path, num_bytes: int = 0) -> None:
    """Let this process's temporary files go to a folder of the home where TMPDIR has no room.

    Libraries write there, too, and some end the process when they cannot.

    Args:
        fallback: the folder, made if it is needed.
        num_bytes: that are about to be written.
    """
    try:
        free = shutil.disk_usage(tempfile.gettempdir()).free
    except OSError:  # There is no folder for temporary files at all.
        free = 0
    if free >= num_bytes + SPARE_BYTES or tempfile.tempdir == str(fallback):
        return
    nearest = next(folder for folder in (fallback, *fallback.parents) if folder.is_dir())
    if shutil.disk_usage(nearest).free <= free:
        return
    fallback.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(fallback)


def write_file(target: str | Path, content: bytes) -> None:
    """Write a file the user named, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    try:
        write_atomically(Path(target), content)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error.strerror}).") from None


def utf8(text: str) -> bytes:
    """Return text as UTF-8; of a file name in another encoding, its bytes are written as \\xfc."""
    return (
        text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").encode("utf-8")
    )


def is_temporary_name(name: str) -> bool:
    """Return whether a file is called as :func:`write_atomically` and the caches call theirs.

    Others call files so, too: only in a folder of busi-search's own does it mean anything.
    """
    return _TEMPORARY.fullmatch(name) is not None


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
