"""What tells classes apart without the disease: properties of files, sites and devices."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.metrics import roc_auc_score

from busi_search.data.dataset import ImageDataset
from busi_search.data.file_notes import dark_notes, read_file_notes
from busi_search.errors import InputError
from busi_search.files import disk_errors, write_atomically
from busi_search.wording import count_of

# Part of the cache key: raise it when a property is measured in another way.
_VERSION = 1
# Mean grey and border differ somewhat between classes of every set (BUSI: up to 0.7); above this a
# threshold on the property alone is nearly a classifier.
WARN_AUC = 0.85
# Too few images of a class separate by chance.
_MIN_IMAGES = 10
_BINARY_SHARE = 0.98
# So many images of a class look like masks that they are some.
_MASK_SHARE = 0.1
_BORDER_PIXELS = 2

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shortcut:
    """A property by which a class can be told from the rest.

    Attributes:
        name: of the property, in words.
        class_name: of the class.
        auc: of a threshold on the property alone, for this class against the rest; at least 0.5.
    """

    name: str
    class_name: str
    auc: float

    def text(self) -> str:
        """Return the warning about it."""
        return (
            f"{self.name.capitalize()} alone tells '{self.class_name}' from the rest (AUC "
            f"{self.auc:.2f}): a network may learn this instead of the disease. Check where the "
            "images come from, and bring them to one form."
        )


def measure_files(dataset: ImageDataset, cache: Path) -> dict[str, Values]:
    """Return what each image file is like, by property; read once, then kept in the cache.

    Returns:
        (N,) arrays: ``width``, ``height`` (pixels), ``mean grey``, ``border`` (mean grey of the
        outermost pixels), ``two-valued`` (share of pixels that are nearly black or nearly white)
        and ``file type`` (a number for each format and mode).

    Raises:
        InputError: an image cannot be read.
    """
    decoding = read_file_notes(dataset, cache).decoding
    stored = cache / "files" / f"{dataset.fingerprint}-v{_VERSION}{decoding}.json"
    try:
        kept = json.loads(stored.read_text())
        return {name: np.asarray(values, dtype=np.float64) for name, values in kept.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        pass
    rows = [_measure(image) for image in dataset.images()]
    kinds = dataset.kinds()
    known = sorted(set(kinds))
    columns = dict(zip(_PROPERTIES, np.asarray(rows, dtype=np.float64).T, strict=True))
    columns["file type"] = np.asarray([known.index(kind) for kind in kinds], dtype=np.float64)
    with disk_errors(stored.parent):
        content = {name: values.tolist() for name, values in columns.items()}
        write_atomically(stored, json.dumps(content).encode())
    return columns


def check_files(dataset: ImageDataset, cache: Path) -> list[str]:
    """Return how the images were read and what tells their classes apart, in sentences.

    Raises:
        InputError: an image cannot be read, or a class holds masks.
    """
    if dataset.simulated:
        return list(dataset.notes)
    files = measure_files(dataset, cache)
    notes = [*read_file_notes(dataset, cache).texts, *dark_notes(dataset, files["mean grey"])]
    refuse_masks(dataset, files)
    return [
        *dataset.notes,
        *notes,
        *_few_masks(dataset, files),
        *(found.text() for found in find_shortcuts(dataset, files)),
    ]


_PROPERTIES = ("width", "height", "mean grey", "border", "two-valued")


def _measure(image: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    edge = min(_BORDER_PIXELS, min(image.shape) // 2)
    inner = image[edge:-edge, edge:-edge].astype(np.float64)
    num_border = image.size - inner.size
    border = (image.sum(dtype=np.float64) - inner.sum()) / num_border
    extreme = float(np.mean((image < 8) | (image > 247)))
    height, width = image.shape
    return width, height, float(image.mean()), border, extreme


def refuse_masks(dataset: ImageDataset, files: Mapping[str, Values]) -> None:
    """Raise if what stands there as images of a class are masks, or many of them are.

    Raises:
        InputError: one in ten of a class's images has hardly any pixel between black and white.
    """
    two_valued = files["two-valued"] > _BINARY_SHARE
    for label, name in enumerate(dataset.class_names):
        of_class = dataset.labels == label
        number, found = int(of_class.sum()), np.flatnonzero(of_class & two_valued)
        if number and len(found) >= max(2, _MASK_SHARE * number):
            raise InputError(
                f"{len(found)} of {number} images of class '{name}' are black and white only, as "
                f"masks are (the first is '{dataset.paths[int(found[0])]}'); name the folder of "
                "the images themselves, and masks beside them NAME_mask.png."
            )


def _few_masks(dataset: ImageDataset, files: Mapping[str, Values]) -> list[str]:
    """A sentence about single images that look like masks."""
    found = np.flatnonzero(files["two-valued"] > _BINARY_SHARE)
    if not len(found):
        return []
    return [
        f"{count_of(len(found), 'image')} in black and white only, as masks are; look at "
        f"'{dataset.paths[int(found[0])]}'."
    ]


def find_shortcuts(dataset: ImageDataset, files: Mapping[str, Values]) -> list[Shortcut]:
    """Return the properties by which a class can be told, the clearest first.

    Besides what :func:`measure_files` gives, the columns ``site`` and ``device`` of the dataset.
    """
    return [found for found in separation(dataset, files) if found.auc >= WARN_AUC]


def separation(dataset: ImageDataset, files: Mapping[str, Values]) -> list[Shortcut]:
    """Return how well each property tells each class from the rest, the clearest first.

    Classes with fewer than ten images, or whose rest has fewer, are left out.
    """
    found = []
    for label, class_name in enumerate(dataset.class_names):
        truth = dataset.labels == label
        if min(truth.sum(), (~truth).sum()) < _MIN_IMAGES:
            continue
        named = {"the file type": _share(files["file type"].tolist(), truth)}
        named |= {f"the {name}": files[name] for name in _PROPERTIES if name != "two-valued"}
        for name in ("site", "device"):
            if name in dataset.properties:
                named[f"the {name}"] = _share(dataset.properties[name], truth)
        for name, values in named.items():
            auc = float(roc_auc_score(truth, values))
            found.append(Shortcut(name, class_name, max(auc, 1 - auc)))
    return sorted(found, key=lambda shortcut: -shortcut.auc)


def _share(values: Sequence[object], truth: npt.NDArray[np.bool_]) -> Values:
    """For each image, the share of the class among the images that have the same value."""
    names = sorted({str(value) for value in values})
    index = np.asarray([names.index(str(value)) for value in values])
    count = np.bincount(index, minlength=len(names))
    share: Values = (np.bincount(index, weights=truth, minlength=len(names)) / count)[index]
    return share
