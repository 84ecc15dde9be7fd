"""The rectangle outside of which all images of a dataset look alike: their screen's furniture."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.geometry import Box
from busi_search.data.image_cache import load_images

# Images are compared at this size, so many of them at most, evenly drawn.
SIZE_PIXELS, MAX_IMAGES = 128, 500
# A pixel is constant if so many images have nearly its commonest grey there …
_SAME_GREY, _SHARE = 6, 0.9
# … and a row or column is furniture if so few of its pixels are anything else.
_VARYING = 0.05
# A rectangle smaller than this is no picture any more.
_MIN_SIDE = 0.3


def find_screen_crop(dataset: ImageDataset, cache: Path) -> Box | None:
    """Return what of a dataset's images is no screen furniture, None where nothing is to be cut.

    From every edge inwards, rows and columns are cut away in which at least 95 % of the pixels have
    the same grey (within 6 of 255) in at least 90 % of the images. Labels are not looked at.

    Args:
        dataset: images that a model may learn from, and no others.
        cache: folder of the image cache.

    Raises:
        InputError: an image cannot be read.
    """
    step = max(1, -(-len(dataset) // MAX_IMAGES))
    some = dataset.subset(np.arange(0, len(dataset), step))
    images = np.asarray(load_images(some, SIZE_PIXELS, cache))
    varying = ~_constant(images)
    left, right = _content(varying.mean(axis=0))
    top, bottom = _content(varying.mean(axis=1))
    if (left, top, right, bottom) == (0, 0, SIZE_PIXELS, SIZE_PIXELS):
        return None
    if min(right - left, bottom - top) < _MIN_SIDE * SIZE_PIXELS:
        return None
    return Box(*(side / SIZE_PIXELS for side in (left, top, right, bottom)))


def _constant(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """(S, S): where nearly all of (N, S, S) images have nearly the same grey."""
    middle = np.median(images, axis=0).astype(np.int16)
    near = np.abs(images.astype(np.int16) - middle) <= _SAME_GREY
    result: npt.NDArray[np.bool_] = near.mean(axis=0) >= _SHARE
    return result


def _content(varying: npt.NDArray[np.float64]) -> tuple[int, int]:
    """First row or column that is no furniture, and the one after the last; all if none is."""
    found = np.flatnonzero(varying > _VARYING)
    return (int(found[0]), int(found[-1]) + 1) if len(found) else (0, len(varying))
