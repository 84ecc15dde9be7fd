"""Burned-in text, calipers and frames: how many pixels of an image look like them."""

import numpy as np
import numpy.typing as npt
from scipy.ndimage import maximum_filter, minimum_filter

from busi_search.data.images import GreyImage

# A burned-in mark is nearly white and has an edge that no tissue has: so many grey levels from one
# pixel to the next. Images with so many such pixels, as a share of their width, are counted: on
# BUSI at 256 px nearly all of them do have marks; fainter marks are missed.
_WHITE, _EDGE, _SHARE = 200, 110, 1 / 16


def count_mark_pixels(image: GreyImage) -> int:
    """Return how many pixels look like burned-in text, calipers or frames.

    Args:
        image: (H, W) uint8, as stored: after resizing, edges are no longer sharp.

    Returns:
        Number of nearly white pixels with a far darker one beside them: no tissue has such
        edges, but small specks of glare may.
    """
    lowest = minimum_filter(image, size=3)
    edge = (image >= _WHITE) & (image.astype(np.int16) - lowest >= _EDGE)
    # A stroke has such pixels side by side; a speck stands alone.
    neighbours = maximum_filter(_shifted_pairs(edge), size=3)
    return int(np.sum(edge & neighbours))


def _shifted_pairs(edge: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    pairs = np.zeros_like(edge)
    pairs[:, 2:] |= edge[:, 2:] & edge[:, 1:-1] & edge[:, :-2]
    pairs[2:, :] |= edge[2:, :] & edge[1:-1, :] & edge[:-2, :]
    return pairs


def have_marks(
    num_pixels: npt.NDArray[np.floating], widths: npt.NDArray[np.floating]
) -> npt.NDArray[np.bool_]:
    """Return which images have so many such pixels that they are counted as marked.

    Args:
        num_pixels: (N,) as :func:`count_mark_pixels` counts them.
        widths: (N,) of the images, in pixels.
    """
    result: npt.NDArray[np.bool_] = num_pixels >= widths * _SHARE
    return result
