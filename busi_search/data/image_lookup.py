"""Whether an image shows a scan that is among known ones, quickly enough to ask every time.

A rough look, prepared once for the known images, leaves few candidates; the twin finder judges
these. As there, either of two images may be a part of the other, or of its mirror image.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.duplicates import find_twins
from busi_search.data.images import GreyImage
from busi_search.data.known_images import small_copy
from busi_search.data.scan_area import resize, scan_area
from busi_search.data.twin_candidates import THUMB_PIXELS, VIEWS

_Floats = npt.NDArray[np.floating[Any]]

_GRID = 20
# Below this the rough looks of two images differ so much that they are not compared.
_MIN_SIMILARITY = 0.6
# A line whose greys differ by no more, but for a few pixels at either end, may be a border.
_SAME_GREYS = 12


class ImageLookup:
    """Known images, prepared so that others are compared with them quickly."""

    def __init__(self, known: Sequence[GreyImage]) -> None:
        """Prepare ``known``, grey images (H, W) uint8 of any sizes."""
        self._known = [small_copy(image) for image in known]
        self._equal: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
        for position, image in enumerate(self._known):
            self._equal.setdefault(_key(image), []).append(position)
        self._looks = _looks(self._known)

    def find(self, images: Sequence[GreyImage]) -> list[list[int]]:
        """Return for each image the positions of known ones that show the same scan.

        For an image that is known as it is, only equal ones are named.

        Args:
            images: grey images (H, W) uint8 of any sizes.
        """
        small = [small_copy(image) for image in images]
        found = [set(self._equal.get(_key(image), ())) for image in small]
        others = [index for index, positions in enumerate(found) if not positions]
        for position, known in self._twins([small[index] for index in others]):
            found[others[position]].add(known)
        return [sorted(positions) for positions in found]

    def _twins(self, images: Sequence[GreyImage]) -> list[tuple[int, int]]:
        looks = _looks(images)
        similarity = np.maximum(_best(looks, self._looks), _best(self._looks, looks).T)
        rough = similarity >= _MIN_SIMILARITY
        asked = np.flatnonzero(rough.any(axis=1)).tolist()
        candidates = np.flatnonzero(rough.any(axis=0)).tolist()
        if not asked:
            return []
        pairs = find_twins([images[i] for i in asked], [self._known[k] for k in candidates])
        return [(asked[pair.first], candidates[pair.second]) for pair in pairs]


def _key(image: GreyImage) -> tuple[tuple[int, ...], bytes]:
    return image.shape, image.tobytes()


def _best(wholes: _Floats, parts: _Floats) -> _Floats:
    """(N, K): highest cosine of N whole images with a part of K others, mirrored or not.

    Both are looks, (2, V, N, 200) and (2, V, K, 200). Mirroring turns the sign of the odd product.
    """
    (even, odd), (even_parts, odd_parts) = wholes[:, 0], parts
    best: _Floats = (even_parts @ even.T + np.abs(odd_parts @ odd.T)).max(axis=0).T
    return best


def _looks(images: Sequence[GreyImage]) -> _Floats:
    """What is seen in each of V views of N images, as unit vectors (2, V, N, 200).

    First the half that is even under mirroring, then the odd one.
    """
    thumbs = [resize(_without_borders(image), THUMB_PIXELS) for image in images]
    grey: _Floats = np.array(thumbs, dtype=np.float32).reshape(-1, THUMB_PIXELS, THUMB_PIXELS) / 255
    detail: _Floats = grey - _blur(grey, _WIDE)
    detail /= np.sqrt(np.maximum(_blur(detail * detail, _WIDE), 0)) + 0.03
    detail = _blur(detail, _NARROW)
    seen: _Floats = np.stack([rows @ detail @ columns.T for rows, columns in _WINDOWS])
    seen -= seen.mean(axis=(2, 3), keepdims=True)
    seen /= np.maximum(np.linalg.norm(seen, axis=(2, 3), keepdims=True), 1e-3)
    left, right = seen[..., : _GRID // 2], seen[..., : _GRID // 2 - 1 : -1]
    halves: _Floats = np.stack([left + right, left - right]) / np.sqrt(np.float32(2))
    return halves.reshape(2, len(_WINDOWS), len(images), _GRID**2 // 2)


def _without_borders(image: GreyImage) -> GreyImage:
    """Return the scan's area; where no outer line is of one grey it is the image, found at once."""
    for line in (image[0], image[-1], image[:, 0], image[:, -1]):
        greys, rest = np.sort(line), len(line) // 25
        if greys[-1 - rest] - greys[rest] <= _SAME_GREYS:
            return scan_area(image)
    return image


def _blur(images: _Floats, kernel: _Floats) -> _Floats:
    """Blur N images along both axes, as two large products: faster than N small ones."""
    for _ in range(2):
        flat = images.reshape(-1, THUMB_PIXELS) @ kernel.T
        images = np.swapaxes(flat.reshape(-1, THUMB_PIXELS, THUMB_PIXELS), 1, 2)
    return images


def _gaussian(sigma: float) -> _Floats:
    """Blur along an axis as a matrix (64, 64); its weights are renormalised at the border."""
    at = np.arange(THUMB_PIXELS)
    kernel = np.exp(-((at - at[:, None]) ** 2) / (2 * sigma**2))
    # Weights near the smallest numbers change nothing, and processors are slow at them.
    return _shares(np.where(kernel < 1e-9, 0, kernel))


def _window(scale: float, shift: float) -> _Floats:
    """Averages over 20 equal pieces of a part of an axis, as a matrix (20, 64)."""
    edges = (np.linspace(shift - scale, shift + scale, _GRID + 1) + 1) / 2 * THUMB_PIXELS
    pixels = np.arange(THUMB_PIXELS)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return _shares(np.maximum(covered, 0))


def _shares(weights: _Floats) -> _Floats:
    """Scale the rows of a matrix so that each sums to 1."""
    shares: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype("f4")
    return shares


_WIDE, _NARROW = _gaussian(4.0), _gaussian(1.5)
_WINDOWS = tuple(
    (_window(scale_y, shift_y), _window(scale_x, shift_x))
    for scale_x, scale_y, shift_x, shift_y in VIEWS
)
