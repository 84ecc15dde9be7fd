"""What of an image is the scan: without borders, without the screen around it, in even tones.

Two copies of one scan may differ in all of these, and two strangers agree in them.
"""

import numpy as np
import numpy.typing as npt
from PIL import Image

Grey = npt.NDArray[np.uint8]

# A border is a row or column nearly all of whose pixels are of one grey.
_BORDER_SHARE = 0.92
_SAME_GREY = 0.02  # of the brightest grey
_MIN_SIDE_PIXELS = 12
# Tones are stretched until the median is here; darker steps than this many greys are dropped.
_MIDDLE_GREY = 0.35
_GAMMA_RANGE = (0.2, 1.5)
_MAX_STEP = 12.0


def scan_area(image: Grey) -> Grey:
    """Return the (H', W') uint8 part of a grey (H, W) uint8 image that shows the scan.

    Borders of one grey are cut off. Tones are stretched linearly and by a power, so that darkened
    copies and those of another gamma look alike; shades so dark that the stretch would tear them
    apart become one.
    """
    return _even_tones(_without_borders(image))


def _without_borders(image: Grey) -> Grey:
    tolerance = round(_SAME_GREY * float(np.percentile(image, 99)))
    while True:
        before = image.shape
        for _ in range(2):
            image = _trim(image, tolerance).T
        if image.shape == before:
            return image


def _trim(image: Grey, tolerance: int) -> Grey:
    """Without the first and last rows that are of one grey."""
    middle = np.median(image, axis=1, keepdims=True)
    same = np.abs(image - middle) <= tolerance
    content = np.flatnonzero(same.mean(1) < _BORDER_SHARE)
    if not len(content) or content[-1] - content[0] + 1 < _MIN_SIDE_PIXELS:
        return image
    return image[content[0] : content[-1] + 1]


def _even_tones(image: Grey) -> Grey:
    counts = np.bincount(image.ravel(), minlength=256)
    shares = np.cumsum(counts) / counts.sum()
    white = max(1, int(np.searchsorted(shares, 0.99)))
    lit = np.cumsum(counts[1:])
    middle = 1 + int(np.searchsorted(lit, lit[-1] / 2)) if lit[-1] else 1
    ratio = min(max(middle / white, 1e-3), 0.99)
    power = float(np.clip(np.log(_MIDDLE_GREY) / np.log(ratio), *_GAMMA_RANGE))
    tones = 255 * (np.arange(256) / white).clip(0, 1) ** power
    return np.rint(tones).astype(np.uint8)[image]


def resize(image: Grey, pixels: int) -> Grey:
    """Return the image brought to a square of this many pixels a side, whatever its shape."""
    size = (pixels, pixels)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
