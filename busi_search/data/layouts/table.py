"""A table that lists images, their labels and what else is known: for every set of one's own."""

import csv
import io
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path

from busi_search.data.dicom import DICOM_SUFFIXES, is_dicom
from busi_search.data.geometry import Box
from busi_search.data.layouts.boxes import box_columns, pixel_box, place_in_file
from busi_search.data.layouts.files import (
    IMAGE_SUFFIXES,
    all_files,
    is_image_file,
    split_masks,
)
from busi_search.data.layouts.sheets import Row, column, read_sheet
from busi_search.data.layouts.unlisted import left_out_notes
from busi_search.data.listing import ListedImage, Listing
from busi_search.errors import InputError
from busi_search.files import disk_errors, write_atomically
from busi_search.wording import count_of

# What a column can mean, and the names by which it is known without being told.
ROLES: Mapping[str, tuple[str, ...]] = {
    "file": ("file", "filename", "image", "image_filename", "image_file", "path", "image_path"),
    "label": ("label", "class", "classification", "pathology", "diagnosis", "target", "type"),
    "patient": ("patient", "patient_id", "case", "case_id", "subject", "subject_id"),
    "mask": ("mask", "mask_file", "mask_filename", "mask_tumor_filename", "mask_path"),
    "fold": ("fold", "kfold"),
    "split": ("split", "part", "subset"),
    "frame": ("frame", "frame_number"),
}
NEEDED = ("file", "label")
# Properties that are known under several names; every other column keeps its own.
_PROPERTIES: Mapping[str, tuple[str, ...]] = {
    "site": ("site", "hospital", "center", "centre", "institution"),
    "device": ("device", "machine", "scanner", "manufacturer_model_name", "vendor"),
    "age": ("age", "patient_age"),
    "birads": ("birads", "bi_rads", "bi-rads"),
}
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val",
         "validation": "val", "test": "test", "testing": "test"}  # fmt: skip


def list_table(table: Path, columns: Mapping[str, str]) -> Listing:
    """List the images of a table; its files are named relative to the table's folder.

    Args:
        table: a .csv, .tsv or .xlsx file.
        columns: which column has which meaning (a role or a property's name); what is not said is
            told from the columns' names.

    Returns:
        The images in the table's order.

    Raises:
        InputError: a column is missing, a file is missing or listed twice, or a label is.
    """
    rows, root = read_sheet(table), table.resolve().parent
    meaning = _columns(table, rows, columns)
    known = {role: meaning[role] for role in ROLES if role in meaning}
    boxes = box_columns(str(table), rows, {**columns, **known})
    files = [row[meaning["file"]] for row in rows]
    for number, (row, file) in enumerate(zip(rows, files, strict=True), start=2):
        for role in NEEDED:
            if not row[meaning[role]]:
                raise InputError(f"{table}: line {number} ('{file}') has no {role}; fill it in.")
    paths = [_find(root, file) for file in files]
    absent = [file for file, path in zip(files, paths, strict=True) if not path]
    if absent:
        raise InputError(
            f"{table}: {len(absent)} of {count_of(len(files), 'file')} not found, the first is "
            f"'{absent[0]}'; names are relative to {root}."
        )
    images = [
        replace(image, box=_box(table, row, path, boxes)) if boxes and not image.masks else image
        for row, of_row in zip(rows, paths, strict=True)
        for path in of_row
        for image in (_listed(table, row, path, root, meaning, set(boxes.values())),)
    ]
    listing = Listing(table.stem, root, images)
    notes = [*_guesses(table, {**known, **boxes}, columns), *left_out_notes(table.name, listing)]
    if boxes:
        num_boxes = sum(image.box is not None for image in images)
        notes.append(
            f"{table.name}: {num_boxes} of {count_of(len(images), 'image')} have a box of the "
            "lesion (x y width height, in pixels of the file), and no mask."
        )
    return replace(listing, notes=tuple(notes))


def _columns(table: Path, rows: Sequence[Row], stated: Mapping[str, str]) -> dict[str, str]:
    """Return the name of the column of every role and property."""
    present = ", ".join(f"'{name}'" for name in rows[0])
    for role, name in stated.items():
        if name not in rows[0]:
            raise InputError(
                f"{table}: there is no column '{name}' (dataset.columns.{role}); "
                f"the columns are {present}."
            )
    found = dict(stated)
    for role, names in {**ROLES, **_PROPERTIES}.items():
        guess = None if role in stated else column(rows, *names)
        if guess is not None and guess not in found.values():
            found[role] = guess
    for role in NEEDED:
        if role not in found:
            raise InputError(
                f"{table}: no column tells the {role} of an image; say which one does: "
                f'{role} = "NAME" under [dataset.columns]. The columns are {present}.'
            )
    for name in rows[0]:
        if name not in found.values():
            found.setdefault(name, name)
    return found


def _find(root: Path, file: str) -> list[Path]:
    """The named file below the root, whose suffix may have been left out, or a folder's DICOM."""
    if os.path.isfile(os.path.join(root, file)):
        return [root / file]
    path = root / file
    suffixes = sorted(IMAGE_SUFFIXES | DICOM_SUFFIXES)
    with_suffix = (path.with_name(path.name + suffix) for suffix in suffixes)
    found = next((found for found in with_suffix if found.is_file()), None)
    if found is not None or not path.is_dir():
        return [] if found is None else [found]
    # The folder of a patient or a study: all its images have the label of the row.
    return [inside for inside in all_files(path) if is_dicom(inside)]


def _listed(
    table: Path, row: Row, path: Path, root: Path, meaning: Mapping[str, str], boxes: Set[str]
) -> ListedImage:
    def cell(role: str) -> str | None:
        return row[meaning[role]] or None if role in meaning else None

    def below(file: Path) -> str:
        written, folder = str(file), f"{root}{os.sep}"
        # Most files, and much faster than by the parts of a path.
        if os.sep == "/" and written.startswith(folder) and ".." not in written:
            return written[len(folder) :]
        if not file.is_relative_to(root) or ".." in file.parts:
            raise InputError(f"{table}: '{file}' lies outside {root}; copy it in.")
        return file.relative_to(root).as_posix()

    part = cell("split")
    if part is not None and part.lower() not in PARTS:
        raise InputError(
            f"{table}: the split of '{path.name}' is '{part}'; use train, val or test."
        )
    frame = cell("frame") if is_dicom(path) else None
    if frame is not None and not (frame.isdecimal() and int(frame) > 0):
        raise InputError(
            f"{table}: the frame of '{path.name}' is '{frame}'; write its number, counted from 1."
        )
    masks = [name.strip() for name in (cell("mask") or "").replace(";", "&").split("&")]
    for name in masks:
        if name and not (root / name).is_file():
            raise InputError(f"{table}: the mask '{name}' of '{path.name}' is not there.")
    return ListedImage(
        file=below(path),
        label=row[meaning["label"]],
        patient=cell("patient"),
        masks=tuple(below(root / name) for name in masks if name),
        fold=cell("fold"),
        part=None if part is None else PARTS[part.lower()],
        properties={
            role: row[name]
            for role, name in meaning.items()
            if name not in boxes and (role not in ROLES or (role == "frame" and frame is None))
        },
        frame=None if frame is None else int(frame),
    )


def _box(table: Path, row: Row, path: Path, boxes: Mapping[str, str]) -> Box | None:
    """Where a row's box is in its image."""
    where = f"{table}: the row of '{path.name}'"
    box = pixel_box(row, boxes, where)
    return None if box is None else place_in_file(path, box, where)


def _guesses(table: Path, meaning: Mapping[str, str], stated: Mapping[str, str]) -> list[str]:
    """A sentence about the columns whose meaning was told from other names than their own."""
    guessed = [
        f"{role} from '{meaning[role]}'"
        for role in meaning
        if role not in stated and meaning[role].lower() != role
    ]
    return [f"{table.name}: read {', '.join(guessed)}."] if guessed else []


def table_of_folder(folder: Path, table: Path) -> int:
    """Write a first table of the images in a folder and all folders in it.

    The label is the name of the folder that an image lies in, to be corrected by hand, and empty
    where all lie in one; in a folder of folders of folders (``benign/patient 7/1.png``) the inner
    one is taken for the patient.

    Args:
        folder: where the images lie; masks are listed with their images.
        table: the .csv file to write; must lie in or above the folder of the images.

    Returns:
        The number of images.

    Raises:
        InputError: no images, or a table that is there already.
    """
    if table.exists():
        raise InputError(f"{table}: the file is there already; name another one.")
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder.")
    found = [path for path in all_files(folder) if is_image_file(path)]
    images, masks = split_masks(found)
    if not images:
        raise InputError(f"{folder}: no images in this folder.")
    root = table.resolve().parent
    if not folder.resolve().is_relative_to(root):
        raise InputError(f"{table}: write it into {folder} or a folder above; names are relative.")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["file", "label", "patient", "mask"])
    # Folders that hold all images say nothing of one.
    common = Path(os.path.commonpath([path.parent for path in images]))
    for path in images:
        inner = path.relative_to(common).parts[:-1]
        label = inner[0] if inner else ""
        # Of DICOM the files tell the patient, and folders may be of studies and series.
        patient = inner[-1] if len(inner) > 1 and not is_dicom(path) else ""
        of = "&".join(p.resolve().relative_to(root).as_posix() for p in masks.get(path, ()))
        writer.writerow([path.resolve().relative_to(root).as_posix(), label, patient, of])
    with disk_errors(root):
        write_atomically(table, os.fsencode(text.getvalue()))
    return len(images)
