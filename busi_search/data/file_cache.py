"""What can be computed again, kept as files that are made once and shared by processes."""

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from busi_search.files import check_free_space, disk_errors

Array = npt.NDArray[Any]
Content = TypeVar("Content")


def load_array(
    target: Path,
    *,
    shape: tuple[int, ...],
    dtype: str,
    parts: Callable[[], Iterable[Array]],
    make_room: Callable[[Path, int], None] = check_free_space,
) -> Array:
    """Return the array of a cache file, made first if it is not there, whole and of this shape.

    Args:
        target: the file; its name must say everything that the content depends on.
        shape: of the array.
        dtype: of the array, in NumPy's string form such as ``|u1``.
        parts: yields the array's pieces in the order in which they lie in it.
        make_room: makes sure that a folder has room for so many bytes, or raises.

    Returns:
        The array, memory-mapped and read-only.

    Raises:
        BusiSearchError: the disk has no room for it.
    """
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    return build_once(
        target,
        lambda: _open(target, shape, dtype),
        lambda path: _write(path, parts(), shape, dtype),
        make_room=lambda folder: make_room(folder, num_bytes),
    )


def build_once(
    target: Path,
    read: Callable[[], Content | None],
    write: Callable[[Path], None],
    *,
    make_room: Callable[[Path], None],
) -> Content:
    """Return what a cache file holds, made first if it is not there or not whole.

    The first process to ask builds the file while others wait; it appears whole or not at all.

    Args:
        target: the file; its name must say everything that the content depends on.
        read: returns the content, or None where the file is missing or damaged.
        write: makes the content and writes it to the path it is given.
        make_room: makes sure that a folder has room for it, or raises.

    Raises:
        BusiSearchError: the disk has no room for it.
    """
    existing = read()
    if existing is not None:
        return existing
    folder = target.parent
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f"{target.name}.lock"):
            existing = read()
            if existing is not None:
                return existing
            make_room(folder)
            temporary = target.with_suffix(f".{os.getpid()}.tmp")
            try:
                write(temporary)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    result = read()
    assert result is not None, "the cache file was just written"
    return result


def _write(path: Path, parts: Iterable[Array], shape: tuple[int, ...], dtype: str) -> None:
    """Write part after part: on a full disk this is an error, in a memory map it is a crash."""
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(np.ascontiguousarray(part, dtype=dtype).tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def _open(path: Path, shape: tuple[int, ...], dtype: str) -> Array | None:
    """Map a cache file, or return None where it is missing, truncated or of another shape."""
    try:
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.dtype(dtype) else None
