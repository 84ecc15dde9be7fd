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
# Tones are stretched until the median of what is not black is here.
_MIDDLE_GREY = 0.35
_GAMMA_RANGE = (0.2, 1.5)


def scan_area(image: Grey, frame: npt.NDArray[np.bool_] | None = None) -> Grey:
    """Return the (H', W') uint8 part of a grey (H, W) uint8 image that shows the scan.

    What is of the frame (any size, stretched over the image; see `screen_frames`) is blackened and
    borders of one grey are cut off. Tones are stretched linearly and by a power, so that darkened
    copies and those of another gamma look alike.
    """
    if frame is not None:
        size = (image.shape[1], image.shape[0])
        covered = np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.NEAREST))
        image = np.where(covered, 0, image).astype(np.uint8)
    return _even_tones(_without_borders(image))


def _without_borders(image: Grey) -> Grey:
    white = _quantile(np.array(Image.fromarray(image).histogram()), 0.99)
    tolerance = round(_SAME_GREY * white)
    while True:
        before = image.shape
        for _ in range(2):
            image = _trim(image, tolerance).T
        if image.shape == before:
            return image


def _trim(image: Grey, tolerance: int) -> Grey:
    """Without the first and last rows that are of one grey."""
    sample = image[:, :: max(1, image.shape[1] // 64)].astype(np.int16)
    middle = np.partition(sample, sample.shape[1] // 2, axis=1)[:, sample.shape[1] // 2, None]
    same = np.abs(sample - middle) <= tolerance
    content = np.flatnonzero(same.mean(1) < _BORDER_SHARE)
    if not len(content) or content[-1] - content[0] + 1 < _MIN_SIDE_PIXELS:
        return image
    return image[content[0] : content[-1] + 1]


def _even_tones(image: Grey) -> Grey:
    picture = Image.fromarray(image)
    counts = np.array(picture.histogram())
    white = max(1, _quantile(counts, 0.99))
    middle = 1 + _quantile(counts[1:], 0.5)
    power = np.log(_MIDDLE_GREY) / np.log(min(middle / white, 0.99))
    tones = 255 * (np.arange(256) / white).clip(0, 1) ** np.clip(power, *_GAMMA_RANGE)
    return np.asarray(picture.point(np.rint(tones).astype(int).tolist()))


def _quantile(counts: npt.NDArray[np.int64], share: float) -> int:
    """The level below which this share of a histogram lies, 0 if there are no counts."""
    return int(np.searchsorted(np.cumsum(counts), share * counts.sum()))


def resize(image: Grey, pixels: int) -> Grey:
    """Return the image brought to a square of this many pixels a side, whatever its shape."""
    size = (pixels, pixels)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
