"""What a scanner's screen shows around every scan: logos, scales, text in the same place."""

import math

import numpy as np
import numpy.typing as npt

Thumbs = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

_MIN_IMAGES = 3
# Shares of the images of one size that have a frame; several scanners may have that size.
_SHARES = (0.8, 0.5, 0.25)
_SAME_GREY = 2
_BLACK = 3
_MIN_FRAME = 0.02
_MIN_FIT = 0.9
_MIN_PICTURE = 0.05
_PIXELS_PER_BLOCK = 512


def find_frames(thumbs: Thumbs) -> list[Mask | None]:
    """Find the pixels that many images of one size have in common.

    Args:
        thumbs: (N, H, W) uint8, all images of one size, equally reduced.

    Returns:
        For every image where (H, W) its frame is, None if it has none. An image has one if it
        agrees with nine tenths of the pixels that are constant over a quarter of the images or
        more, and shows something else besides: a set of copies of one scan is no frame.
    """
    found: list[Mask | None] = [None] * len(thumbs)
    left = np.arange(len(thumbs))
    for share in _SHARES:
        while len(left) >= _MIN_IMAGES:
            grey, common = _most_common(thumbs[left], share)
            if common.mean() < _MIN_FRAME:
                break
            near = _close_to(thumbs[left], grey)
            picture = ((thumbs[left] > _BLACK) & ~(near & common)).mean((1, 2))
            fits = (near[:, common].mean(1) >= _MIN_FIT) & (picture >= _MIN_PICTURE)
            if fits.sum() < _MIN_IMAGES:
                break
            for index in left[fits]:
                found[index] = common
            left = left[~fits]
    return found


def _most_common(thumbs: Thumbs, share: float) -> tuple[npt.NDArray[np.int64], Mask]:
    """The commonest grey (H, W) of every pixel, where enough images have it, and where that is.

    Where too few have one grey it is 0; black is common nowhere.
    """
    num_images, height, width = thumbs.shape
    pixels = thumbs.reshape(num_images, -1)
    enough = math.ceil(max(_MIN_IMAGES, share * num_images))
    # Few pixels have so many like greys: only theirs are counted, level by level.
    agreed = np.flatnonzero(_most_agree(pixels, enough))
    counts = np.zeros((len(agreed), 256), dtype=np.int32)
    places = np.arange(len(agreed))
    for thumb in pixels[:, agreed]:
        counts[places, thumb] += 1
    padded = np.pad(counts, ((0, 0), (_SAME_GREY + 1, _SAME_GREY)))
    sums = np.cumsum(padded, 1, dtype=np.int32)
    near = sums[:, 2 * _SAME_GREY + 1 :] - sums[:, : -2 * _SAME_GREY - 1]
    grey = np.zeros(height * width, dtype=np.int64)
    grey[agreed] = near.argmax(1)
    common = grey > _BLACK
    return grey.reshape(height, width), common.reshape(height, width)


def _most_agree(pixels: Thumbs, enough: int) -> Mask:
    """Where (P,) so many of N images (N, P) lie within one window of greys."""
    found = np.zeros(pixels.shape[1], dtype=np.bool_)
    for start in range(0, len(found), _PIXELS_PER_BLOCK):
        block = slice(start, start + _PIXELS_PER_BLOCK)
        ordered = np.sort(pixels[:, block], axis=0)
        spread = ordered[enough - 1 :] - ordered[: len(ordered) - enough + 1]
        found[block] = spread.min(axis=0) <= 2 * _SAME_GREY
    return found


def _close_to(thumbs: Thumbs, grey: npt.NDArray[np.int64]) -> Mask:
    """Where (N, H, W) images have about the given grey (H, W)."""
    # Image by image: differences of all would take many times their own memory.
    found = np.empty(thumbs.shape, dtype=np.bool_)
    for index, thumb in enumerate(thumbs):
        found[index] = np.abs(thumb.astype(np.int16) - grey) <= _SAME_GREY
    return found
