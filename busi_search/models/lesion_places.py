"""Where the lesion is in images that a model is asked about, if it has to be told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from busi_search.data.dicom import cut_like_image
from busi_search.data.geometry import Box, PixelBox, lesion_box
from busi_search.data.images import GreyImage, decode_mask
from busi_search.data.layouts.boxes import box_columns, pixel_box, place_in_file
from busi_search.data.layouts.files import masks_beside
from busi_search.data.layouts.sheets import column, read_sheet
from busi_search.errors import InputError
from busi_search.files import user_path
from busi_search.wording import count_of, verb


def read_boxes(table: str | Path, files: Sequence[Path]) -> dict[Path, PixelBox]:
    """Read a table of boxes for some image files.

    Args:
        table: a .csv or .xlsx file with the column ``file`` and either ``x``, ``y``, ``width`` and
            ``height`` or ``box`` with all four, as a table of training images has it; files are
            named relative to the table's folder or to the present folder, or by their bare names
            where these are unique. A row without a box is passed over.
        files: the images; rows about other files are passed over.

    Returns:
        The boxes of those of the files that have one.

    Raises:
        InputError: the table cannot be read, lacks a column, holds something else than numbers, or
            has two rows for one image.
    """
    path = user_path(table)
    rows = read_sheet(path)
    columns, named_by = box_columns(str(path), rows, {}), column(rows, "file", "filename", "image")
    if not columns or named_by is None:
        present = ", ".join(f"'{name}'" for name in rows[0])
        raise InputError(
            f"{path}: there is no column {'file' if named_by is None else 'of boxes'}; a table of "
            "boxes has the columns file,x,y,width,height or file,box (x y width height), in pixels "
            f"of the image file. The columns are {present}."
        )
    by_path, by_name = {file.resolve(): file for file in files}, dict[str, list[Path]]()
    for file in files:
        by_name.setdefault(file.name, []).append(file)
    found: dict[Path, PixelBox] = {}
    for number, row in enumerate(rows, start=2):
        named = Path(row[named_by])
        places = ((path.parent / named).resolve(), named.resolve())
        alike = [by_path[place] for place in places if place in by_path]
        if not alike and len(named.parts) == 1 and len(by_name.get(named.name, [])) == 1:
            alike = by_name[named.name]
        if not alike:
            continue
        file = alike[0]
        if file in found:
            raise InputError(f"{path}: line {number} is a second box of '{file}'; keep one.")
        box = pixel_box(row, columns, f"{path}: line {number} ('{named}')")
        if box is not None:
            found[file] = box
    return found


def place_of(image: GreyImage, box: PixelBox, *, shown: str) -> Box:
    """Return a box as shares of an (H, W) image.

    Raises:
        InputError: it is empty or does not lie in the image.
    """
    try:
        return Box.of_pixels(*box, image)
    except ValueError as error:
        raise InputError(f"{shown}: {error}; correct it.") from None


@dataclass(frozen=True)
class LesionPlaces:
    """Where the lesions of some image files are.

    Attributes:
        boxes: of files that have one.
        masks: mask files of the others, as far as there are any.
    """

    boxes: Mapping[Path, PixelBox]
    masks: Mapping[Path, Sequence[Path]]

    def of(self, path: Path) -> Box:
        """Return where the lesion of an image file is.

        Raises:
            InputError: the box does not lie in the image, or a mask cannot be read or is empty.
        """
        if path in self.boxes:
            return place_in_file(path, self.boxes[path], str(path))
        masks = [cut_like_image(decode_mask(file), path) for file in self.masks[path]]
        if len({mask.shape for mask in masks}) > 1:
            raise InputError(f"{path}: the masks of this image differ in size.")
        box = lesion_box(np.max(masks, axis=0))
        if box is None:
            raise InputError(
                f"{path}: its mask is empty, and this model must be told where the lesion is; it "
                "cannot answer about an image without one."
            )
        return box


def find_places(
    files: Sequence[Path], boxes: str | Path | Mapping[str | Path, PixelBox] | None
) -> LesionPlaces:
    """Find where the lesion of every file is: by a box, or else by the masks beside the image.

    Args:
        files: the images.
        boxes: a table, see :func:`read_boxes`, or boxes by file.

    Raises:
        InputError: the table is not usable, or an image has neither a box nor a mask.
    """
    if boxes is None or isinstance(boxes, Mapping):
        given = {user_path(path): box for path, box in (boxes or {}).items()}
    else:
        given = read_boxes(boxes, files)
    left = [path for path in files if path not in given]
    masks = masks_beside(left)
    missing = [path for path in left if path not in masks]
    if missing:
        raise InputError(
            f"{missing[0]}: this model must be told where the lesion is, and {len(missing)} of "
            f"{count_of(len(files), 'image')} {verb(len(missing), 'has', 'have')} no box and no "
            "mask; name a table of boxes with --boxes "
            "FILE.csv (columns file,x,y,width,height, in pixels of the image), or lay masks beside "
            "the images as NAME_mask.png."
        )
    return LesionPlaces(given, masks)
