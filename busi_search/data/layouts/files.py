"""Image files and the masks that belong to them, by their names; and what else lies there."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from busi_search.data.dicom import is_dicom
from busi_search.errors import InputError

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".tif", ".tiff", ".gif", ".webp"}
)
# Files of these kinds are images, or whole studies of them, for other programs.
_OTHER_IMAGES = frozenset(
    {".jp2", ".j2k", ".jpx", ".jxl", ".heic", ".heif", ".avif", ".nii",
     ".gz", ".mha", ".mhd", ".nrrd", ".raw", ".npy", ".npz", ".mat", ".svg", ".psd", ".ppm", ".pgm",
     ".pnm", ".exr", ".tga", ".dng", ".eps", ".zip", ".rar", ".7z", ".tar"}
)  # fmt: skip
# How such files begin that have no suffix, or an unknown one: PNG, JPEG, GIF, TIFF, BMP, ZIP.
_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"BM", b"PK\x03\x04")
_JUNK = frozenset({"thumbs.db", "desktop.ini"})
# What a copy of a file is called: "a - Copy", "a copy 2", "a (2)".
_COPY = r"(?:[\s_-]*(?:copy|kopie)(?:[\s_-]*\d+)?|[\s_-]*\(\d+\))*"
_MASK = re.compile(rf"[\s_-]*mask(?:[\s_-]*\d+)?{_COPY}$", re.IGNORECASE)
# Words that may also end the name of an image: a mask only beside an image of the name's rest.
_MASK_BESIDE = re.compile(
    r"[\s_-]+(?:tumou?r|seg(?:mentation)?|gt|ground[\s_-]?truth|label|annotation|lesion|roi|"
    rf"contour)(?:[\s_-]*\d+)?{_COPY}$",
    re.IGNORECASE,
)
_OTHER_MASK = re.compile(rf"[\s_-]+other(?:[\s_-]*\d+)?{_COPY}$", re.IGNORECASE)
_MASK_BEFORE = re.compile(r"^(?:mask|seg|gt)[\s_-]+", re.IGNORECASE)
_IMAGE = re.compile(r"[\s_-]*image$", re.IGNORECASE)
MASK_FOLDERS = ("masks", "mask", "gt", "annotations", "segmentations", "labels")


def is_image_file(path: Path) -> bool:
    """Return whether a file is an image that is read, by its suffix or, for DICOM, by its start."""
    return path.suffix.lower() in IMAGE_SUFFIXES or (is_dicom(path) and not path.is_dir())


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
    with reading(folder), os.scandir(folder) as entries:
        found = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and not entry.is_dir()
            and is_image_file(Path(entry.path))
        ]
    return [folder / name for name in sorted(found, key=natural)]


def all_files(folder: Path) -> list[Path]:
    """Return every file in a folder and in the folders in it, hidden ones left out.

    Raises:
        InputError: a folder cannot be read.
    """

    def stop(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read ({error.strerror}).") from None

    found, seen = [], set()
    for place, folders, names in os.walk(folder, onerror=stop, followlinks=True):
        # A link may lead back to where it lies.
        if (real := os.path.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith((".", "_")))
        found += [
            Path(place, name)
            for name in names
            if not name.startswith(".") and name.lower() not in _JUNK
        ]
    return sorted(found, key=lambda path: natural(str(path)))


def may_be_image(path: Path) -> bool:
    """Return whether a file is an image, even in a format that is not read here."""
    suffix = path.suffix.lower()
    if suffix in IMAGE_SUFFIXES or suffix in _OTHER_IMAGES:
        return True
    if suffix in (".txt", ".csv", ".tsv", ".xlsx", ".xls", ".json", ".xml", ".md", ".pdf", ".html"):
        return False
    try:
        with path.open("rb") as stream:
            start = stream.read(132)
    except OSError:
        return True
    return start.startswith(_MAGIC) or start[128:] == b"DICM"


def kinds_of(paths: Iterable[Path]) -> str:
    """Return how many files there are of each suffix, such as ``12 .dcm, 1 without a suffix``."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return ", ".join(f"{count} {suffix}" for suffix, count in counts.most_common())


def split_masks(files: Iterable[Path]) -> tuple[list[Path], dict[Path, list[Path]]]:
    """Return the images among files, and the masks that stand beside each.

    ``a.png`` has the masks ``a_mask.png``, ``a_mask_1.png``, ``a_mask - Copy.png`` and
    ``a_tumor.png``; ``1 Benign Image.bmp`` the mask ``1 Benign Mask.tif``. ``a_other1.png`` beside
    ``a.png`` is the mask of another structure, and neither an image nor a mask of a lesion.
    """
    listed = list(files)
    stems = {(path.parent, path.stem.lower()) for path in listed}
    images: list[Path] = []
    masks: dict[tuple[Path, str], list[Path]] = {}
    for path in listed:
        of, beside = _mask_of(path, stems)
        if of is not None:
            masks.setdefault((path.parent, of), []).append(path)
        elif not beside:
            images.append(path)
    found = {}
    for image in images:
        for stem in (image.stem, _IMAGE.sub("", image.stem)):
            if (image.parent, stem.lower()) in masks:
                found[image] = masks[image.parent, stem.lower()]
                break
    return images, found


def _mask_of(path: Path, stems: set[tuple[Path, str]]) -> tuple[str | None, bool]:
    """The stem of the image that a file is the mask of, and whether it is of something else."""
    if _MASK.search(path.stem) is not None:
        return _MASK.sub("", path.stem).lower(), False
    for pattern in (_MASK_BESIDE, _MASK_BEFORE, _OTHER_MASK):
        rest = pattern.sub("", path.stem).lower()
        if rest != path.stem.lower() and (path.parent, rest) in stems:
            return (None, True) if pattern is _OTHER_MASK else (rest, False)
    return None, False


def named_as_mask(path: Path) -> bool:
    """Return whether a file's or its folder's name may be that of masks, of whatever structure."""
    patterns = (_MASK, _MASK_BESIDE, _MASK_BEFORE, _OTHER_MASK)
    return path.parent.name.lower() in MASK_FOLDERS or any(p.search(path.stem) for p in patterns)


def masks_by_stem(folder: Path | None) -> dict[str, list[Path]]:
    """Return the files of a folder of masks by the name, without suffix, of their image."""
    found: dict[str, list[Path]] = {}
    for path in image_files(folder) if folder is not None else []:
        endings = (_MASK, _MASK_BESIDE, _MASK_BEFORE)
        for stem in {path.stem, *(pattern.sub("", path.stem) for pattern in endings)}:
            found.setdefault(stem, []).append(path)
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
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", name)]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what the system says of an unreadable folder or file into one sentence."""
    try:
        yield
    except OSError as error:
        name = error.filename or path
        raise InputError(f"{name}: cannot be read ({error.strerror}).") from None
