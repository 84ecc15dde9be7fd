"""What a scanner's screen shows around every scan: logos, scales, text in the same place."""

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
            near = np.abs(thumbs[left].astype(np.int16) - grey) <= _SAME_GREY
            picture = ((thumbs[left] > _BLACK) & ~(near & common)).mean((1, 2))
            fits = (near[:, common].mean(1) >= _MIN_FIT) & (picture >= _MIN_PICTURE)
            if fits.sum() < _MIN_IMAGES:
                break
            for index in left[fits]:
                found[index] = common
            left = left[~fits]
    return found


def _most_common(thumbs: Thumbs, share: float) -> tuple[npt.NDArray[np.int64], Mask]:
    """The commonest grey (H, W) of every pixel, and where enough images have it, black apart."""
    num_images, height, width = thumbs.shape
    place = np.arange(height * width) * 256
    counts = np.zeros(height * width * 256, dtype=np.int64)
    for thumb in thumbs:
        counts[place + thumb.ravel()] += 1
    sums = np.cumsum(np.pad(counts.reshape(-1, 256), ((0, 0), (_SAME_GREY + 1, _SAME_GREY))), 1)
    near = sums[:, 2 * _SAME_GREY + 1 :] - sums[:, : -2 * _SAME_GREY - 1]
    grey = near.argmax(1)
    enough = max(_MIN_IMAGES, share * num_images)
    common = (near.max(1) >= enough) & (grey > _BLACK)
    return grey.reshape(height, width), common.reshape(height, width)
