"""A MedMNIST .npz file with its official split."""

import hashlib
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from busi_search.data.classes import positive_class
from busi_search.data.containers import Container
from busi_search.data.dataset import ImageDataset
from busi_search.data.images import GreyImage
from busi_search.errors import InputError, reason_of

PARTS = ("train", "val", "test")
MAX_ARRAY_BYTES = 16_000_000_000
# Images of tissue pack to a half or a third; an archive far beyond is not one of images.
MAX_HARMLESS_BYTES = 200_000_000
MAX_RATIO = 100
# BT.601 luminance, as Pillow's convert("L").
_LUMINANCE = np.array([0.299, 0.587, 0.114])
_BREASTMNIST = re.compile(r"breastmnist(?:_(?:28|64|128|224))?(?: ?\(\d+\))?")
BREASTMNIST_CLASSES = ("malignant", "normal or benign")


@dataclass(frozen=True)
class NpzReader:
    """Reads images of the three official parts, one after the other."""

    path: Path

    def read(self, indices: Sequence[int]) -> Iterator[GreyImage]:
        """Yield the (H, W) uint8 image of each index."""
        images = [image for array, _ in _read_parts(self.path).values() for image in array]
        for index in indices:
            yield _grey(images[index])

    def read_masks(self, indices: Sequence[int]) -> Iterator[GreyImage | None]:
        """Yield None: MedMNIST has no masks of this kind."""
        return iter([None] * len(indices))

    def masks_digest(self, indices: Sequence[int]) -> str | None:
        """Return None: there are none."""
        return None

    def containers(self, indices: Sequence[int]) -> list[Container]:
        """Return nothing: there are no image files."""
        return []

    @property
    def white_level(self) -> None:
        """None: all pixels have 8 bits."""
        return None


def is_breastmnist(path: Path) -> bool:
    """Return whether a file has the name of BreastMNIST, at any size and as browsers number it."""
    return _BREASTMNIST.fullmatch(path.stem.lower()) is not None


def load_medmnist(
    path: Path,
    class_names: tuple[str, ...] | None = None,
    *,
    positive: str | None = None,
    positive_needed: bool = True,
) -> ImageDataset:
    """Load a MedMNIST archive: ``{train,val,test}_{images,labels}``.

    Args:
        path: the .npz file; images uint8 (N, H, W) or (N, H, W, 3), labels (N,) or (N, 1).
        class_names: names of the classes in the order of their labels.
        positive: name of the class that is the disease (default: told from the names).
        positive_needed: refuse names that do not tell the disease.

    Returns:
        The dataset, official parts kept.

    Raises:
        InputError: the file is missing, damaged, pickled, of another form or type, its labels are
            not 0, 1, 2 and so on, or it cannot be told which class is the disease.
    """
    parts = _read_parts(path)
    images = [image for array, _ in parts.values() for image in array]
    labels = np.concatenate([part_labels for _, part_labels in parts.values()])
    _check_labels(path, labels)
    num_classes = int(labels.max()) + 1
    names = class_names or _default_names(path, num_classes)
    if len(names) != num_classes:
        raise InputError(
            f"{path}: the labels have {num_classes} classes, the study {len(names)} class_names."
        )
    paths = [f"{part}/{index}" for part, (array, _) in parts.items() for index in range(len(array))]
    return ImageDataset(
        name=path.stem,
        class_names=names,
        positive=positive_class(names, positive, where=str(path), needed=positive_needed),
        labels=labels,
        paths=tuple(paths),
        digests=tuple(_digest(image) for image in images),
        official=tuple(part for part, (array, _) in parts.items() for _ in range(len(array))),
        reader=NpzReader(path=path.resolve()),
        positions=np.arange(len(labels), dtype=np.int64),
    )


def _check_labels(path: Path, labels: npt.NDArray[np.int64]) -> None:
    """Refuse labels with gaps: their classes would be of no image, or under another's name."""
    present = np.unique(labels)
    if len(present) < 2:
        raise InputError(f"{path}: all labels are {present[0]}; expected at least two classes.")
    absent = np.setdiff1d(np.arange(present[-1]), present)
    if len(absent):
        shown = ", ".join(map(str, present[:10])) + (" …" if len(present) > 10 else "")
        raise InputError(
            f"{path}: the labels are {shown}, and no image has the label {absent[0]}; number the "
            "classes 0, 1, 2 and so on, without gaps."
        )


def _digest(image: npt.NDArray[np.uint8]) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def _default_names(path: Path, num_classes: int) -> tuple[str, ...]:
    if is_breastmnist(path) and num_classes == 2:
        return BREASTMNIST_CLASSES
    return tuple(f"class {index}" for index in range(num_classes))


def _grey(image: npt.NDArray[np.uint8]) -> GreyImage:
    if image.ndim == 3:
        grey: GreyImage = np.round(image @ _LUMINANCE).astype(np.uint8)
        return grey
    return image


def _read_parts(
    path: Path,
) -> dict[str, tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]]:
    """Read and check the arrays of every official part."""
    if not path.is_file():
        raise InputError(f"{path}: no such file; expected a MedMNIST .npz archive.")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive)
        with np.load(path, allow_pickle=False) as arrays:
            return {part: _read_part(path, arrays, part) for part in PARTS}
    except InputError:
        raise
    except KeyError as error:
        raise InputError(
            f"{path}: {error.args[0]}; expected train, val and test images and labels."
        ) from None
    except Exception as error:
        # Unpackers raise whatever they like on damaged input: zlib.error, struct.error …
        raise InputError(f"{path}: not a readable .npz archive ({reason_of(error)}).") from None


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a bomb before it is unpacked: by its size, its ratio, and headers that promise more.

    NumPy reserves the memory that an array's header asks for before it reads the array.
    """
    entries = archive.infolist()
    unpacked = sum(entry.file_size for entry in entries)
    packed = sum(entry.compress_size for entry in entries)
    if unpacked > MAX_ARRAY_BYTES:
        raise InputError(f"{path}: unpacks to {unpacked / 1e9:.0f} GB, more than allowed.")
    if unpacked > MAX_HARMLESS_BYTES and unpacked > MAX_RATIO * packed:
        raise InputError(f"{path}: unpacks to {unpacked / packed:.0f} times its size; refused.")
    wanted = {f"{part}_{kind}.npy" for part in PARTS for kind in ("images", "labels")}
    for entry in entries:
        if entry.filename not in wanted:
            continue
        with archive.open(entry) as stream:
            major, _ = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0
            if major > 1:
                read = np.lib.format.read_array_header_2_0
            shape, _, dtype = read(stream)
            if math.prod(shape) * dtype.itemsize > entry.file_size:
                raise InputError(
                    f"{path}: {entry.filename} promises {shape} values of type {dtype} and holds "
                    f"{entry.file_size} bytes; the file is damaged."
                )


def _read_part(
    path: Path, arrays: "np.lib.npyio.NpzFile", part: str
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    images, labels = arrays[f"{part}_images"], arrays[f"{part}_labels"]
    if images.dtype != np.uint8:
        raise InputError(f"{path}: {part}_images has type {images.dtype}, expected uint8.")
    if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] != 3):
        raise InputError(
            f"{path}: {part}_images has shape {images.shape}, expected (N, H, W) or (N, H, W, 3)."
        )
    if len(images) == 0 or not all(28 <= side <= 1024 for side in images.shape[1:3]):
        raise InputError(
            f"{path}: {part}_images has shape {images.shape}, expected 28 to 1024 pixels a side "
            "and at least one image."
        )
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise InputError(
            f"{path}: {part}_labels has shape {labels.shape} and type {labels.dtype}, "
            f"expected {len(images)} whole numbers."
        )
    if labels.min() < 0 or labels.max() > 999:
        raise InputError(f"{path}: {part}_labels holds values outside 0 to 999.")
    return images, labels.astype(np.int64)
