"""Digests of files, read again only if the system says that a file may have changed."""

import hashlib
import json
import os
import stat
import time
import unicodedata
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from busi_search.data.dicom import MAX_DICOM_BYTES, is_dicom
from busi_search.data.images import MAX_FILE_BYTES
from busi_search.data.progress import counted
from busi_search.errors import InputError
from busi_search.files import disk_errors, write_atomically

# Part of the cache's name: raise it when what is kept changes.
_VERSION = 1
_THREADS = 8
_FILES_AT_ONCE = 256
# A file that changed so shortly before it was read may change again within one tick of its clock.
_SETTLED_SECONDS = 2.0
# Size, times of the last change of content and of the file's entry, and number on its disk.
Mark = tuple[int, int, int, int]


def file_digests(root: Path, names: Sequence[str], cache: Path | None = None) -> list[str]:
    """Return the hexadecimal SHA-256 of files below ``root``.

    A digest that the cache holds is taken where size, both times of change and the file's number
    are those it was read at. The second of the times cannot be set by programs, so a file whose
    content changed is read again, also if its date was put back.

    Args:
        root: the folder.
        names: of the files, with slashes.
        cache: folder where digests are kept for the next time; None: all files are read.

    Raises:
        InputError: a file is missing, empty, too large, a link out of ``root`` or not named in
            text.
    """
    kept = _read_kept(cache, root)
    safe: dict[str, bool] = {}
    marks = [_mark(root, name, safe) for name in names]
    found = [_known(kept.get(name), mark) for name, mark in zip(names, marks, strict=True)]
    missing = [index for index, digest in enumerate(found) if digest is None]
    began = time.time()
    paths = (os.path.join(root, names[index]) for index in missing)
    read = counted(_read_all(paths, root), "files read", len(missing))
    for index, digest in zip(missing, read, strict=True):
        found[index] = digest
    if cache is not None and missing:
        fresh = {
            names[i]: (*marks[i], found[i])
            for i in missing
            if max(marks[i][1], marks[i][2]) / 1e9 < began - _SETTLED_SECONDS
        }
        target = _place(cache, root)
        with disk_errors(target.parent):
            write_atomically(target, json.dumps({**kept, **fresh}).encode())
    return [digest for digest in found if digest is not None]


def _read_all(paths: Iterator[str], root: Path) -> Iterator[str]:
    """Digests in order; several files are read at once, and few are held in memory."""
    with ThreadPoolExecutor(_THREADS) as pool:
        while batch := list(islice(paths, _FILES_AT_ONCE)):
            yield from pool.map(_digest, batch)


def _digest(path: str) -> str:
    try:
        with open(path, "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None


def _mark(root: Path, name: str, safe: dict[str, bool]) -> Mark:
    """How the system tells a file from its other versions; what cannot be used is refused."""
    path = os.path.join(root, name)
    # Text is printable but for some letters that the slower look allows.
    if not name.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in name):
        raise InputError(f"{path!r}: the name holds characters that are not text; rename the file.")
    try:
        status = os.lstat(path)
        folder = os.path.dirname(path)
        if folder not in safe:
            safe[folder] = Path(folder).resolve(strict=True).is_relative_to(root.resolve())
        if stat.S_ISLNK(status.st_mode):
            inside = Path(path).resolve(strict=True).is_relative_to(root.resolve())
            status = os.stat(path)
        else:
            inside = safe[folder]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None
    if not inside:
        raise InputError(f"{path}: a link to a file outside {root} is refused; copy it in.")
    if status.st_size == 0:
        raise InputError(f"{path}: the file is empty; restore or remove it.")
    large = status.st_size > MAX_FILE_BYTES
    if large and (status.st_size > MAX_DICOM_BYTES or not is_dicom(Path(path))):
        raise InputError(f"{path}: {status.st_size / 1e6:.0f} MB is too large for an image file.")
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _known(kept: object, mark: Mark) -> str | None:
    if isinstance(kept, list) and len(kept) == 5 and tuple(kept[:4]) == mark:
        return str(kept[4])
    return None


def _place(cache: Path, root: Path) -> Path:
    name = hashlib.sha256(str(root.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache / "digests" / f"{name}-v{_VERSION}.json"


def _read_kept(cache: Path | None, root: Path) -> dict[str, object]:
    if cache is None:
        return {}
    try:
        kept = json.loads(_place(cache, root).read_bytes())
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
