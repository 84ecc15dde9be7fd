"""A folder of images sorted into classes, as Kaggle ships BUSI or plain (masks left out)."""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from busi_search.data.dataset import ImageDataset, positive_class
from busi_search.data.images import MAX_FILE_BYTES, GreyImage, decode_image
from busi_search.errors import InputError

KAGGLE_FOLDER = "Dataset_BUSI_with_GT"
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
_MASK = re.compile(r"[\s_-]*mask([\s_-]*\d+)?$", re.IGNORECASE)


@dataclass(frozen=True)
class FolderReader:
    """Reads image files below ``root``."""

    root: Path
    paths: tuple[str, ...]

    def read(self, indices: Sequence[int]) -> Iterator[GreyImage]:
        """Yield the (H, W) uint8 image of each index."""
        for index in indices:
            yield decode_image(
                self.root / self.paths[index], shown=str(self.root / self.paths[index])
            )

    def read_masks(self, indices: Sequence[int]) -> Iterator[GreyImage | None]:
        """Yield the (H, W) uint8 mask of each index, several masks of one image joined."""
        known = self._mask_files()
        for index in indices:
            files = known.get(self.paths[index].rsplit(".", 1)[0], [])
            masks = [decode_image(path, shown=str(path)) for path in files]
            if len({mask.shape for mask in masks}) > 1:
                raise InputError(f"{files[0]}: the masks of one image differ in size.")
            joined = np.max(masks, axis=0) if masks else None
            yield None if joined is None else np.where(joined > 127, 255, 0).astype(np.uint8)

    def masks_digest(self, indices: Sequence[int]) -> str | None:
        """Return 16 hexadecimal digits of the mask files' bytes, None if there are no files."""
        known, digest, found = self._mask_files(), hashlib.sha256(), False
        for index in indices:
            for path in known.get(self.paths[index].rsplit(".", 1)[0], []):
                digest.update(_file_digest(path, self.root).encode())
                found = True
        return digest.hexdigest()[:16] if found else None

    def _mask_files(self) -> dict[str, list[Path]]:
        """Mask files by the name, without suffix, of the image they belong to."""
        known: dict[str, list[Path]] = {}
        for folder in sorted({(self.root / path).parent for path in self.paths}):
            for path in sorted(folder.iterdir()):
                if path.suffix.lower() in IMAGE_SUFFIXES and is_mask(path.name):
                    image = path.with_name(_MASK.sub("", path.stem)).relative_to(self.root)
                    known.setdefault(image.as_posix(), []).append(path)
        return known


def is_mask(name: str) -> bool:
    """Return whether a file name is that of a segmentation mask, such as ``a_mask_1.png``."""
    return _MASK.search(Path(name).stem) is not None


def is_busi_folder(folder: Path) -> bool:
    """Return whether ``folder`` looks like BUSI: class folders, one of them of malignant images."""
    if not folder.is_dir():
        return False
    root = folder / KAGGLE_FOLDER if (folder / KAGGLE_FOLDER).is_dir() else folder
    names = {entry.name.lower() for entry in root.iterdir() if entry.is_dir()}
    return {"benign", "malignant"} <= names


def load_busi(folder: Path) -> ImageDataset:
    """Load a folder of class folders, BUSI's own or plain, leaving masks out.

    Args:
        folder: the folder itself or its parent, if that holds ``Dataset_BUSI_with_GT``.

    Returns:
        The dataset; classes and files in natural order. Pixels are not read yet.

    Raises:
        InputError: no folder, fewer than two classes, a class without images, a file that
            is empty, too large or a link out of the folder.
    """
    if not folder.is_dir():
        problem = "this is a file" if folder.exists() else "no such folder"
        raise InputError(
            f"{folder}: {problem}; expected class folders such as benign/ and malignant/."
        )
    try:
        return _load(folder)
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}).") from None


def _load(folder: Path) -> ImageDataset:
    root = folder / KAGGLE_FOLDER if (folder / KAGGLE_FOLDER).is_dir() else folder
    class_folders = sorted(
        entry
        for entry in root.iterdir()
        if entry.is_dir() and not entry.name.startswith((".", "_"))
    )
    files = [(entry.name, _image_files(entry)) for entry in class_folders]
    files = [(name, found) for name, found in files if found]
    if len(files) < 2:
        raise InputError(
            f"{folder}: found {len(files)} class folder(s) with images; expected at least two, "
            "such as benign/ and malignant/."
        )
    class_names = tuple(name for name, _ in files)
    paths: list[str] = []
    labels: list[int] = []
    digests: list[str] = []
    for label, (_, found) in enumerate(files):
        for path in found:
            digests.append(_file_digest(path, root))
            paths.append(path.relative_to(root).as_posix())
            labels.append(label)
    return ImageDataset(
        name="busi" if is_busi_folder(folder) else folder.resolve().name,
        class_names=class_names,
        positive=positive_class(class_names),
        labels=np.asarray(labels, dtype=np.int64),
        paths=tuple(paths),
        digests=tuple(digests),
        official=None,
        reader=FolderReader(root=root.resolve(), paths=tuple(paths)),
        positions=np.arange(len(paths), dtype=np.int64),
    )


def _image_files(folder: Path) -> list[Path]:
    found = [
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith(".")
        and not is_mask(path.name)
        and not path.is_dir()
    ]
    return sorted(found, key=lambda path: _natural(path.name))


def _natural(name: str) -> list[tuple[int, int | str]]:
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]


def _file_digest(path: Path, root: Path) -> str:
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in str(path.relative_to(root))):
        raise InputError(
            f"{str(path)!r}: the name holds characters that are not text; rename the file."
        )
    try:
        if not path.resolve(strict=True).is_relative_to(root.resolve()):
            raise InputError(f"{path}: a link to a file outside {root} is refused; copy it in.")
        size = path.stat().st_size
        if size == 0:
            raise InputError(f"{path}: the file is empty; restore or remove it.")
        if size > MAX_FILE_BYTES:
            raise InputError(f"{path}: {size / 1e6:.0f} MB is too large for an image file.")
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None
