"""A folder of images sorted into classes: BUSI as Kaggle ships it, QAMEBI, BUS-UC, or plain."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from busi_search.data.classes import is_diagnosis, is_no_class
from busi_search.data.layouts.files import (
    MASK_FOLDERS,
    all_files,
    image_files,
    is_image_file,
    kinds_of,
    masks_by_stem,
    may_be_image,
    named_as_mask,
    split_masks,
    subfolder,
    subfolders,
)
from busi_search.data.listing import ListedImage, Listing
from busi_search.errors import InputError
from busi_search.wording import count_of

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
        The images; classes and files in natural order. Notes say what was left out.

    Raises:
        InputError: fewer than two classes, what look like classes are none, or a class has no
            images or holds images that are not read.
    """
    if not folder.is_dir():
        problem = "this is a file" if folder.exists() else "no such folder"
        raise InputError(
            f"{folder}: {problem}; expected class folders such as benign/ and malignant/."
        )
    root = _root(folder)
    entries = subfolders(root)
    _refuse_kinds(folder, entries)
    images: list[ListedImage] = []
    notes: list[str] = []
    for entry in entries:
        listed = list(_images_of(entry, root))
        notes += _left_out(entry, root, listed)
        images += listed
    names = {image.label for image in images}
    if len(names) < 2:
        raise InputError(
            f"{folder}: found {count_of(len(names), 'class folder')} with images; expected at "
            f"least two, such as benign/ and malignant/. Where the labels stand elsewhere, "
            f"{_HOW_TO_LIST.format(folder=folder)}."
        )
    _refuse_inner_classes(folder, images)
    notes = [*_contradictions(folder, images), *notes]
    if any(image.patient is not None for image in images):
        notes.append("The folders inside the class folders were taken for patients.")
    if beside := image_files(root):
        notes.append(
            f"Left out: {count_of(len(beside), 'image file')} beside the class folders, of no "
            f"class; the first is '{beside[0].name}'."
        )
    name = "busi" if is_busi_folder(folder) else folder.resolve().name
    return Listing(name, root, images, tuple(notes))


_HOW_TO_LIST = (
    "write a table of the images first (busi-search data check {folder} --write-table labels.csv), "
    "fill in its labels, and name it with --data"
)


def _root(folder: Path) -> Path:
    return folder / KAGGLE_FOLDER if (folder / KAGGLE_FOLDER).is_dir() else folder


def _refuse_kinds(folder: Path, entries: Sequence[Path]) -> None:
    """Raise if a folder with images in it is named for a kind of file or a part of a set."""
    for entry in entries:
        if is_no_class(entry.name) and any(map(may_be_image, all_files(entry))):
            raise InputError(
                f"{folder}: '{entry.name}' says what kind of files lie there, not which class; "
                f"{_HOW_TO_LIST.format(folder=folder)}."
            )


def _refuse_inner_classes(folder: Path, images: Sequence[ListedImage]) -> None:
    """Raise if the folders inside the class folders are no patients."""
    inner = sorted({image.patient for image in images if image.patient is not None})
    outer = sorted({image.label for image in images})
    kinds = [name for name in inner if is_no_class(name)]
    diagnoses = [name for name in inner if is_diagnosis(name)]
    if kinds or (len(diagnoses) > 1 and not any(map(is_diagnosis, outer))):
        what = "no patients" if kinds else "the classes, so the outer ones are none"
        raise InputError(
            f"{folder}: the folders {', '.join((kinds or diagnoses)[:5])} inside "
            f"{', '.join(outer[:5])} are {what}; {_HOW_TO_LIST.format(folder=folder)}."
        )


def _images_of(entry: Path, root: Path) -> Iterator[ListedImage]:
    """The images of one class folder."""
    inside, masks = split_masks(image_files(entry))
    in_folder = masks_by_stem(subfolder(entry, *MASK_FOLDERS))
    if inside:
        for path in inside:
            yield _listed(path, masks.get(path) or in_folder.get(path.stem) or (), entry, root)
        return
    pictures = subfolder(entry, "images", "image", "imgs", "original")
    if pictures is not None:
        inside, masks = split_masks(image_files(pictures))
        for path in inside:
            yield _listed(path, in_folder.get(path.stem) or masks.get(path) or (), entry, root)
        return
    for patient in subfolders(entry):
        if patient.name.lower() in MASK_FOLDERS:
            continue
        files = [path for path in all_files(patient) if is_image_file(path)]
        apart = {path for path in files if path.parent.name.lower() in MASK_FOLDERS}
        by_stem: dict[str, list[Path]] = {}
        for mask in sorted(apart):
            by_stem.setdefault(mask.stem, []).append(mask)
        inside, masks = split_masks(path for path in files if path not in apart)
        for path in inside:
            found = masks.get(path) or by_stem.get(path.stem) or ()
            yield _listed(path, found, entry, root, patient=patient.name)


def _left_out(entry: Path, root: Path, listed: Sequence[ListedImage]) -> Iterator[str]:
    """Sentences about the files of a class folder that are not read.

    Raises:
        InputError: the class has no images, or some that are not read.
    """
    used = {root / name for image in listed for name in (image.file, *image.masks)}
    every = all_files(entry)
    rest = [path for path in every if path not in used]
    unread = [path for path in rest if may_be_image(path) and not named_as_mask(path)]
    if unread:
        deeper = all(is_image_file(path) for path in unread)
        way_out = (
            "images lie in the class folder and in folders inside it: put all on one level, or "
            "list them in a table"
            if deeper
            else "save them as PNG, JPEG, BMP or TIFF, or move them out of the folder"
        )
        raise InputError(
            f"{entry}: {len(unread)} of its image files are not read ({kinds_of(unread)}; the "
            f"first is '{unread[0].relative_to(root).as_posix()}'), and {len(listed)} are; "
            f"{way_out}."
        )
    if not listed and (not every or is_diagnosis(entry.name)):
        raise InputError(
            f"{entry}: no images in this class folder; restore them, or remove the folder."
        )
    if not listed:
        yield f"The folder '{entry.name}' holds no images and was left out ({kinds_of(every)})."
        return
    masks = [path for path in rest if named_as_mask(path) and is_image_file(path)]
    if masks:
        yield (
            f"'{entry.name}': left out {count_of(len(masks), 'file')} named as masks of images "
            f"that are not there; the first is '{masks[0].relative_to(root).as_posix()}'."
        )
    if others := sorted(set(rest) - set(masks)):
        kinds = kinds_of(others)
        yield f"'{entry.name}': left out {count_of(len(others), 'file')} of other kinds ({kinds})."


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
            f"The name of {count_of(len(wrong), 'file')} says another class than the folder, the "
            f"first is '{wrong[0].file}'; the folder counts. Check the labels."
        )
