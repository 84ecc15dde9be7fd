"""The image files to predict, from the files and folders that a user names."""

from collections.abc import Sequence
from pathlib import Path

from busi_search.data.layouts.files import MASK_FOLDERS, is_image_file, split_masks
from busi_search.errors import InputError
from busi_search.files import user_path


def find_images(paths: Sequence[str | Path]) -> list[Path]:
    """Return the image files that are named or lie in named folders.

    Masks in folders are left out, by the rules by which datasets are read: files named as masks
    (``a_mask.png``, ``a_tumor.png`` beside ``a.png``) and all files of folders named for masks
    (``Masks``, ``GT``), unless that folder itself is named.

    Raises:
        InputError: a path does not exist, or a folder holds no image.
    """
    found: list[Path] = []
    for named in paths:
        path = user_path(named)
        if path.is_dir():
            found += _inside(path)
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"{path}: no such file.")
    return found


def _inside(folder: Path) -> list[Path]:
    files = sorted(
        file
        for file in folder.rglob("*")
        if is_image_file(file)
        # As in training: what systems put beside images (`._x.png`) is none.
        and not file.name.startswith(".")
        and not _is_in_mask_folder(file, folder)
    )
    images, _ = split_masks(files)
    if not images:
        raise InputError(f"{folder}: no image in this folder.")
    for file in images:
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"{file}: a link to a file outside {folder} is refused; name it itself."
            )
    return images


def _is_in_mask_folder(file: Path, folder: Path) -> bool:
    return any(part.lower() in MASK_FOLDERS for part in file.relative_to(folder).parts[:-1])
