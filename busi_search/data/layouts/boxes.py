"""Boxes of a table: where lesions are, in pixels of the image files."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from busi_search.data.dicom import is_dicom, read_header
from busi_search.data.geometry import Box, PixelBox
from busi_search.data.images import upright_size
from busi_search.data.layouts.sheets import Row, column
from busi_search.errors import InputError

# One column holds a box, or four do; each is known by these names without being told.
BOX_ROLES: Mapping[str, tuple[str, ...]] = {
    "box": ("box", "bbox", "bounding_box", "lesion_box"),
    "box_x": ("box_x", "bbox_x"),
    "box_y": ("box_y", "bbox_y"),
    "box_width": ("box_width", "bbox_width", "box_w", "bbox_w"),
    "box_height": ("box_height", "bbox_height", "box_h", "bbox_h"),
}
FOUR_ROLES = ("box_x", "box_y", "box_width", "box_height")
# Alone, these say too little: a table may name the size of its images so.
_FOUR_PLAIN = ("x", "y", "width", "height")
_ADVICE = "write x y width height, in pixels of the image file"


def box_columns(where: str, rows: Sequence[Row], stated: Mapping[str, str]) -> dict[str, str]:
    """Return which columns hold the boxes, by role: ``box``, or all of ``FOUR_ROLES``, or none.

    Args:
        where: how error messages name the table.
        rows: of the table.
        stated: which column has which role or other meaning, as the user says.

    Raises:
        InputError: some of four columns are there, but not all.
    """
    said = {role: name for role, name in stated.items() if role in BOX_ROLES}
    if "box" in said:
        return {"box": said["box"]}
    used = set(stated.values())
    four = dict(said)
    for role in FOUR_ROLES:
        guess = None if role in said else column(rows, *BOX_ROLES[role])
        if guess is not None and guess not in used:
            four[role] = guess
    if four:
        missing = [role for role in FOUR_ROLES if role not in four]
        if missing:
            raise InputError(
                f"{where}: a box takes four columns, and none tells its {missing[0]}; name it "
                f'under [dataset.columns], such as {missing[0]} = "NAME", or write x y width '
                "height into one column, box."
            )
        return four
    one = column(rows, *BOX_ROLES["box"])
    # A column of another meaning may have such a name: "box 12" of an archive.
    if one is not None and one not in used and any(_numbers(row[one]) for row in rows):
        return {"box": one}
    plain = [column(rows, name) for name in _FOUR_PLAIN]
    found = [name for name in plain if name is not None and name not in used]
    return dict(zip(FOUR_ROLES, found, strict=True)) if len(found) == len(plain) else {}


def pixel_box(row: Row, columns: Mapping[str, str], where: str) -> PixelBox | None:
    """Return the box of a row; None: its cells are empty.

    Args:
        row: of the table.
        columns: as :func:`box_columns` gives them.
        where: how error messages name the row.

    Raises:
        InputError: it is not four finite numbers.
    """
    cells = [row[columns[role]] for role in BOX_ROLES if role in columns]
    if not any(cells):
        return None
    numbers = _numbers(" ".join(cell or "?" for cell in cells))
    if numbers is None:
        raise InputError(
            f"{where} has the box '{' '.join(cells)}', which is not four numbers; {_ADVICE}."
        )
    return numbers


def place_in_file(path: Path, box: PixelBox, where: str) -> Box:
    """Return a box in pixels of an image file as shares of the image that is read from it.

    What reaches over an edge by a pixel at most was rounded, and is cut off.
    A file whose orientation tag turns it is meant as it is shown. Of a DICOM file the whole screen
    counts, also where only its B-mode region is read.

    Args:
        path: the file.
        box: x, y, width and height.
        where: how error messages name the box.

    Raises:
        InputError: the box is empty or does not lie in the image, or the file cannot be read.
    """
    x, y, width, height = box
    header = read_header(path) if is_dicom(path) else None
    region = None if header is None else header.region
    if region is not None:
        size, part = (region.right - region.left, region.bottom - region.top), "B-mode region"
        x, y = x - region.left, y - region.top
    elif header is not None:
        size, part = (header.shape[1], header.shape[0]), "image"
    else:
        size, part = upright_size(path), "image"
    left, shown_width = _rounded(x, width, size[0])
    top, shown_height = _rounded(y, height, size[1])
    try:
        return Box.within((left, top, shown_width, shown_height), size)
    except ValueError:
        pass
    numbers = " ".join(f"{value:g}" for value in box)
    if width <= 0 or height <= 0:
        reason = "is empty"
    else:
        at = "" if region is None else f" that begins at {region.left}, {region.top}"
        reason = f"does not lie in the {part} of {size[0]} × {size[1]} pixels{at}"
    corners = box[2] > box[0] and box[3] > box[1] and box[2] <= size[0] and box[3] <= size[1]
    hint = "; the numbers may be two corners (left top right bottom)" if corners else ""
    raise InputError(f"{where} has the box {numbers}, which {reason}{hint}; {_ADVICE}.")


def _rounded(start: float, length: float, limit: int) -> tuple[float, float]:
    """A side of a box, without what rounding moved over the edge: a pixel at most."""
    end = start + length
    start = 0.0 if -1 <= start < 0 else start
    return start, (limit if limit < end <= limit + 1 else end) - start


def _numbers(cell: str) -> PixelBox | None:
    """Four finite numbers, separated by blanks, commas or semicolons, in brackets or not."""
    parts = re.split(r"[\s,;]+", cell.strip("[](){} \t"))
    try:
        values = [float(part) for part in parts]
    except ValueError:
        return None
    if len(values) != 4 or not all(map(math.isfinite, values)):
        return None
    return values[0], values[1], values[2], values[3]
