"""A folder of images sorted into classes: BUSI as Kaggle ships it, QAMEBI, BUS-UC, or plain."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from busi_search.data.classes import is_no_class
from busi_search.data.layouts.files import (
    image_files,
    masks_by_stem,
    split_masks,
    subfolder,
    subfolders,
)
from busi_search.data.listing import ListedImage, Listing
from busi_search.errors import InputError

KAGGLE_FOLDER = "Dataset_BUSI_with_GT"
_WORDS = re.compile(r"benign|malignant|normal", re.IGNORECASE)


def is_busi_folder(folder: Path) -> bool:
    """Return whether ``folder`` looks like BUSI: class folders, one of them of malignant images."""
    if not folder.is_dir():
        return False
    return {"benign", "malignant"} <= {entry.name.lower() for entry in subfolders(_root(folder))}


def list_class_folders(folder: Path) -> Listing:
    """List a folder of class folders; masks are told by their names or their folder.

    In a class folder lie its images, or folders ``images`` and ``masks``, or a folder per patient.

    Args:
        folder: the folder itself or its parent, if that holds ``Dataset_BUSI_with_GT``.

    Returns:
        The images; classes and files in natural order.

    Raises:
        InputError: fewer than two classes, or what look like classes are none.
    """
    if not folder.is_dir():
        problem = "this is a file" if folder.exists() else "no such folder"
        raise InputError(
            f"{folder}: {problem}; expected class folders such as benign/ and malignant/."
        )
    root = _root(folder)
    images: list[ListedImage] = []
    for entry in subfolders(root):
        images += _images_of(entry, root)
    names = sorted({image.label for image in images})
    if no_class := [name for name in names if is_no_class(name)]:
        raise InputError(
            f"{folder}: '{no_class[0]}' says what kind of files lie there, not which class; "
            f"{_HOW_TO_LIST.format(folder=folder)}."
        )
    if len(names) < 2:
        raise InputError(
            f"{folder}: found {len(names)} class folder(s) with images; expected at least two, "
            f"such as benign/ and malignant/. Where the labels stand elsewhere, "
            f"{_HOW_TO_LIST.format(folder=folder)}."
        )
    notes = tuple(_contradictions(folder, images))
    if any(image.patient is not None for image in images):
        notes += ("The folders inside the class folders were taken for patients.",)
    name = "busi" if is_busi_folder(folder) else folder.resolve().name
    return Listing(name, root, images, notes)


_HOW_TO_LIST = (
    "write a table of the images first (busi-search data check {folder} --write-table labels.csv), "
    "fill in its labels, and name it with --data"
)


def _root(folder: Path) -> Path:
    return folder / KAGGLE_FOLDER if (folder / KAGGLE_FOLDER).is_dir() else folder


def _images_of(entry: Path, root: Path) -> Iterator[ListedImage]:
    """The images of one class folder."""
    inside, masks = split_masks(image_files(entry))
    if inside:
        yield from (_listed(path, masks.get(path, ()), entry, root) for path in inside)
        return
    pictures = subfolder(entry, "images", "image", "imgs", "original")
    if pictures is not None:
        of = masks_by_stem(subfolder(entry, "masks", "mask", "gt", "annotations"))
        for path in image_files(pictures):
            yield _listed(path, of.get(path.stem, ()), entry, root)
        return
    for patient in subfolders(entry):
        inside, masks = split_masks(image_files(patient))
        for path in inside:
            yield _listed(path, masks.get(path, ()), entry, root, patient=patient.name)


def _listed(
    path: Path, masks: Sequence[Path], entry: Path, root: Path, patient: str | None = None
) -> ListedImage:
    return ListedImage(
        file=path.relative_to(root).as_posix(),
        label=entry.name,
        patient=patient,
        masks=tuple(mask.relative_to(root).as_posix() for mask in masks),
    )


def _contradictions(folder: Path, images: Sequence[ListedImage]) -> Iterator[str]:
    """Sentences about files whose names say another class than their folder does.

    Raises:
        InputError: the folders name no class, and the files do.
    """
    said = {i: _WORDS.search(Path(image.file).stem) for i, image in enumerate(images)}
    named = {i: match[0].lower() for i, match in said.items() if match is not None}
    folders = {image.label for image in images}
    told_by_files = len(set(named.values())) > 1 and len(named) > len(images) / 2
    if told_by_files and not any(_WORDS.search(name) for name in folders):
        first = images[next(iter(named))]
        raise InputError(
            f"{folder}: the files' names tell their class ('{first.file}'), the folders "
            f"{', '.join(sorted(folders))} do not: they may be hospitals or devices; "
            f"{_HOW_TO_LIST.format(folder=folder)}."
        )
    wrong = [
        images[i]
        for i, word in named.items()
        if _WORDS.search(images[i].label) and word not in images[i].label.lower()
    ]
    if wrong:
        yield (
            f"{len(wrong)} file(s) have a name that says another class than their folder, the "
            f"first is '{wrong[0].file}'; the folder counts. Check them."
        )
