"""How much of a picture has colours of its own, told before it becomes grey."""

from pathlib import Path

import numpy as np
from PIL import Image

from busi_search.data.dicom import is_dicom
from busi_search.data.grey import MAX_IMAGE_PIXELS
from busi_search.data.images import FORMATS

# Colours are compared on a copy of at most this many pixels a side.
SIDE_PIXELS = 128
# A pixel has a colour of its own if red or blue is this far, of 255, from what its grey foretells.
OWN_COLOUR = 24.0
_GREY_MODES = ("1", "L", "LA", "La", "I", "F")


def coloured_share(path: Path) -> float:
    """Return the share of an image's pixels that have a colour of their own.

    Grey images have none, nor have tinted ones, such as sepia, in which the grey level alone
    decides on the colour: red and blue are compared with straight lines through all pixels' grey.

    Args:
        path: a readable image file. DICOM files and grey ones count as grey.

    Returns:
        From 0 (grey or evenly tinted) to 1.
    """
    if is_dicom(path):
        return 0.0
    with Image.open(path, formats=FORMATS) as image:
        width, height = image.size
        if width * height > MAX_IMAGE_PIXELS or image.mode in _GREY_MODES:
            return 0.0
        if image.mode.startswith("I;"):
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
