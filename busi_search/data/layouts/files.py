"""Image files and the masks that belong to them, by their names."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from busi_search.data.dicom import is_dicom
from busi_search.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
_MASK = re.compile(r"[\s_-]*mask([\s_-]*\d+)?$", re.IGNORECASE)
_IMAGE = re.compile(r"[\s_-]*image$", re.IGNORECASE)


def is_image_file(path: Path) -> bool:
    """Return whether a file is an image that is read, by its suffix or, for DICOM, by its start."""
    return path.suffix.lower() in IMAGE_SUFFIXES or (is_dicom(path) and not path.is_dir())


def is_mask(name: str) -> bool:
    """Return whether a file name is that of a segmentation mask, such as ``a_mask_1.png``."""
    return _MASK.search(Path(name).stem) is not None


def subfolders(folder: Path) -> list[Path]:
    """Return the folders in a folder, by name; hidden ones left out."""
    with reading(folder):
        found = [e for e in folder.iterdir() if e.is_dir() and not e.name.startswith((".", "_"))]
    return sorted(found)


def subfolder(folder: Path, *names: str) -> Path | None:
    """Return the folder in a folder that has one of the names, whatever their case."""
    if not folder.is_dir():
        return None
    return next((entry for entry in subfolders(folder) if entry.name.lower() in names), None)


def image_files(folder: Path) -> list[Path]:
    """Return the image files that lie in a folder, masks too, in natural order."""
    with reading(folder):
        found = [
            path
            for path in folder.iterdir()
            if not path.name.startswith(".") and not path.is_dir() and is_image_file(path)
        ]
    return sorted(found, key=lambda path: natural(path.name))


def split_masks(files: Iterable[Path]) -> tuple[list[Path], dict[Path, list[Path]]]:
    """Return the images among files, and the masks that stand beside each.

    ``a.png`` has the masks ``a_mask.png`` and ``a_mask_1.png``; ``1 Benign Image.bmp`` the mask
    ``1 Benign Mask.tif``.
    """
    images: list[Path] = []
    masks: dict[Path, list[Path]] = {}
    for path in files:
        if is_mask(path.name):
            masks.setdefault(path.with_name(_MASK.sub("", path.stem)), []).append(path)
        else:
            images.append(path)
    found = {}
    for image in images:
        for stem in (image.stem, _IMAGE.sub("", image.stem)):
            if image.with_name(stem) in masks:
                found[image] = masks[image.with_name(stem)]
                break
    return images, found


def masks_by_stem(folder: Path | None) -> dict[str, list[Path]]:
    """Return the files of a folder of masks by the name, without suffix, of their image."""
    found: dict[str, list[Path]] = {}
    for path in image_files(folder) if folder is not None else []:
        found.setdefault(_MASK.sub("", path.stem), []).append(path)
    return found


def natural(name: str) -> list[tuple[int, int | str]]:
    """Return a key that sorts ``a 2`` before ``a 10``."""
    return [(0, int(part)) if part.isdigit() else (1, part) for part in re.split(r"(\d+)", name)]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says of an unreadable folder or file into one sentence."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise InputError(f"{name}: cannot be read ({error.strerror}).") from None
