"""Grey 8-bit pixels, and the conversion of values with more than 8 bits.

A container is not its content: a 16-bit file may hold 8, 10 or 12 significant bits. White is
therefore the smallest usual full scale that holds all values, of a file or of a whole set.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

GreyImage = npt.NDArray[np.uint8]
Values = npt.NDArray[Any]

MAX_IMAGE_PIXELS = 64_000_000
MIN_SIDE_PIXELS = 8
# Full scales of 8, 10, 12, 14, 16, 24 and 32 significant bits.
WHITE_LEVELS = (255.0, 1023.0, 4095.0, 16383.0, 65535.0, 2.0**24 - 1, 2.0**32 - 1)
# An image is nearly black if hardly any pixel is brighter.
NEARLY_BLACK = 12
_SHARE_OF_PIXELS = 0.99


def white_level(values: Values) -> float:
    """Return the smallest usual full scale that holds all values.

    Args:
        values: of any shape; values that are no numbers are left out, negative ones are black.

    Returns:
        255, 1023, 4095, 16383, 65535, 2**24 - 1 or 2**32 - 1; for floats also 1. Larger values are
        their own scale.
    """
    if np.issubdtype(values.dtype, np.floating):
        values = values[np.isfinite(values)]
        scales: tuple[float, ...] = (1.0, *WHITE_LEVELS)
    else:
        scales = WHITE_LEVELS
    peak = float(values.max(initial=0))
    return next((scale for scale in scales if peak <= scale), peak)


def scale_to_grey(values: Values, white: float) -> GreyImage:
    """Bring values to 8 bits; ``white`` and what is above it becomes 255.

    Args:
        values: (H, W) integers or floats; negative ones and what is no number become 0.
        white: the value of white, from :func:`white_level`.
    """
    if np.issubdtype(values.dtype, np.floating):
        shares = np.nan_to_num(values.astype(np.float64), posinf=0, neginf=0) / white
        return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)
    whole = int(white)
    return (np.clip(values.astype(np.int64), 0, whole) * 255 // whole).astype(np.uint8)


def luminance(colours: Values) -> Values:
    """Return the ITU-R BT.601 luminance of (H, W, 3) integers, rounded, as (H, W) int64."""
    grey: Values = colours[..., :3].astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    return np.rint(grey).astype(np.int64)


def is_nearly_black(image: GreyImage) -> bool:
    """Return whether 99 in 100 pixels of a grey image (H, W) are black or nearly so."""
    return float(np.quantile(image, _SHARE_OF_PIXELS)) <= NEARLY_BLACK
