"""Notes on what was skipped or changed in a dataset's image files, from their headers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from busi_search.data.containers import Container
from busi_search.data.dataset import ImageDataset
from busi_search.data.grey import is_nearly_black
from busi_search.errors import InputError
from busi_search.files import disk_errors, write_atomically
from busi_search.wording import count_of

# Part of the cache key: raise it when the notes or the decoding of such files change.
_VERSION = 1
# No image that is nearly black has a higher mean.
_DARK_MEAN = 16


@dataclass(frozen=True)
class FileNotes:
    """What the image files of a set hold besides the pixels that are read.

    Attributes:
        texts: sentences that are shown when the dataset is read.
        decoding: part of the names of caches; empty where files have 8 bits and lie upright, so
            that they are read as they always were.
    """

    texts: tuple[str, ...] = ()
    decoding: str = ""


def read_file_notes(dataset: ImageDataset, cache: Path) -> FileNotes:
    """Return what the image files of a dataset hold; headers are read once, then the cache.

    Raises:
        InputError: a file is not a readable image.
    """
    stored = cache / "files" / f"{dataset.fingerprint}-containers-v{_VERSION}.json"
    try:
        kept = json.loads(stored.read_text())
        return FileNotes(tuple(map(str, kept["texts"])), str(kept["decoding"]))
    except (OSError, ValueError, TypeError, KeyError):
        pass
    containers = dataset.containers()
    if not containers:
        return FileNotes()
    found = FileNotes(tuple(_texts(dataset, containers)), _decoding(dataset, containers))
    with disk_errors(stored.parent):
        content = {"texts": list(found.texts), "decoding": found.decoding}
        write_atomically(stored, json.dumps(content).encode())
    return found


def _decoding(dataset: ImageDataset, containers: Sequence[Container]) -> str:
    turned = "-upright" if any(found.turned for found in containers) else ""
    deep = any(found.deep for found in containers) and dataset.white_level
    return f"{turned}-white{deep:g}" if deep else turned


def _texts(dataset: ImageDataset, containers: Sequence[Container]) -> list[str]:
    def of(numbers: list[int]) -> str:
        return f"{count_of(len(numbers), 'file')}, the first is '{dataset.paths[numbers[0]]}'"

    texts = []
    if several := [i for i, found in enumerate(containers) if found.pages > 1]:
        num_pages = sum(containers[i].pages for i in several)
        texts.append(
            f"Several pages or frames in {of(several)}: the first of each was read, "
            f"{num_pages - len(several)} were left out; save those you need as separate files."
        )
    if turned := [i for i, found in enumerate(containers) if found.turned]:
        texts.append(f"An orientation tag in {of(turned)}: the images were turned upright.")
    if deep := [i for i, found in enumerate(containers) if found.deep]:
        texts.append(
            f"More than 8 bits a pixel in {of(deep)}: scaled so that {dataset.white_level:g} is "
            "white, the smallest usual full scale that holds all values of the set."
        )
    if clear := [i for i, found in enumerate(containers) if found.transparent]:
        hidden = [i for i in clear if _hides_content(dataset, i)]
        if hidden:
            texts.append(
                f"Nothing is left of {of(hidden)}: all pixels are transparent and read as black; "
                "save them without transparency."
            )
    return texts


def _hides_content(dataset: ImageDataset, index: int) -> bool:
    image = next(dataset.subset(np.asarray([index], dtype=np.int64)).images())
    return bool(image.max() == 0)


def dark_notes(dataset: ImageDataset, mean_grey: npt.NDArray[np.float64]) -> list[str]:
    """Return sentences about images that are nearly black.

    Args:
        dataset: the images.
        mean_grey: (N,) mean grey of each.

    Raises:
        InputError: nine in ten images of a class are nearly black.
    """
    candidates = np.flatnonzero(mean_grey < _DARK_MEAN).astype(np.int64)
    images = dataset.subset(candidates).images()
    dark = [int(i) for i, image in zip(candidates, images, strict=True) if is_nearly_black(image)]
    for label, name in enumerate(dataset.class_names):
        of_class = [i for i in dark if dataset.labels[i] == label]
        if of_class and len(of_class) >= 0.9 * np.sum(dataset.labels == label):
            raise InputError(
                f"The images of class '{name}' are nearly black as they are read (the first is "
                f"'{dataset.paths[of_class[0]]}'); save them as 8-bit grey PNG files that show "
                "what you see."
            )
    if not dark:
        return []
    return [
        f"Nearly black: {count_of(len(dark), 'image')}, the first is '{dataset.paths[dark[0]]}'; "
        "look at them, and leave them out if nothing can be seen."
    ]
