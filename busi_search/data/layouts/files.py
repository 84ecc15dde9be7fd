"""Image files and the masks that belong to them, by their names."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from busi_search.errors import InputError

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp"})
_MASK = re.compile(r"[\s_-]*mask([\s_-]*\d+)?$", re.IGNORECASE)
_IMAGE = re.compile(r"[\s_-]*image$", re.IGNORECASE)


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
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not path.name.startswith(".")
            and not path.is_dir()
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


def masks_beside(images: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return the masks of image files that lie beside them, or in a folder beside their folder.

    ``a.png`` has ``a_mask.png`` or ``../masks/a.png``; BUS-BRA's ``bus_1.png`` has
    ``../Masks/mask_1.png``. Images without masks are left out.
    """
    found: dict[Path, list[Path]] = {}
    of_folder: dict[Path, list[Path]] = {}
    for image in images:
        of_folder.setdefault(image.parent, []).append(image)
    for folder, inside in of_folder.items():
        _, beside = split_masks(image_files(folder))
        others = masks_by_stem(subfolder(folder.parent, "masks", "mask", "gt", "annotations"))
        for image in inside:
            stems = (image.stem, re.sub(r"^bus_", "mask_", image.stem))
            apart = next((others[stem] for stem in stems if stem in others), [])
            if masks := beside.get(image, apart):
                found[image] = masks
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
