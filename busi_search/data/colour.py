"""How much of a picture has colours of its own, told before it becomes grey."""

from pathlib import Path

import numpy as np
from PIL import Image

from busi_search.data.dicom import is_dicom
from busi_search.data.images import FORMATS

# Colours are compared on a copy of at most this many pixels a side.
SIDE_PIXELS = 128
# A pixel has a colour of its own if red or blue is this far, of 255, from what its grey foretells.
OWN_COLOUR = 24.0
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def coloured_share(path: Path) -> float:
    """Return the share of an image file's pixels that have a colour of their own.

    Args:
        path: a readable image file. DICOM files and grey ones count as grey.

    Returns:
        From 0 (grey or evenly tinted) to 1, see :func:`coloured_share_of`.
    """
    if is_dicom(path):
        return 0.0
    with Image.open(path, formats=FORMATS) as image:
        return coloured_share_of(image)


def coloured_share_of(image: Image.Image) -> float:
    """Return the share of a picture's pixels that have a colour of their own.

    Grey pictures have none, nor have tinted ones, such as sepia, in which the grey level alone
    decides on the colour: red and blue are compared with straight lines through all pixels' grey.

    Args:
        image: of any mode; it may be loaded small.
    """
    if image.mode in _GREY_MODES or image.mode.startswith("I;"):
        return 0.0
    image.draft("RGB", (SIDE_PIXELS, SIDE_PIXELS))
    small = image.convert("RGBA")
    small.thumbnail((SIDE_PIXELS, SIDE_PIXELS))
    ground = Image.new("RGBA", small.size, (0, 0, 0, 255))
    laid = Image.alpha_composite(ground, small).convert("RGB")
    colours = np.asarray(laid, dtype=np.float64).reshape(-1, 3)
    grey = np.asarray(laid.convert("L"), dtype=np.float64).reshape(-1)
    line = np.stack([grey, np.ones_like(grey)], axis=1)
    beyond = colours[:, (0, 2)] - grey[:, None]
    foretold = line @ np.linalg.lstsq(line, beyond, rcond=None)[0]
    return float((np.abs(beyond - foretold).max(axis=1) > OWN_COLOUR).mean())
