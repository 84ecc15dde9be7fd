"""Whether an image shows a scan that is among known ones, quickly enough to ask every time.

A rough look, prepared once for the known images, leaves few candidates; the twin finder judges
these. As in the twin finder, either of two images may be a part of the other.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.duplicates import find_twins
from busi_search.data.images import GreyImage
from busi_search.data.known_images import small_copy

_Floats = npt.NDArray[np.floating[Any]]

_SIDE = 64
_GRID = 20
# Below this the rough looks of two images differ so much that they are not compared. On BUSI and
# BreastMNIST 99 % of true pairs lie above it; of BUS-BRA's images, which are no copies, 1 % do.
_MIN_SIMILARITY = 0.6
# Parts of an image: how much of its height and width, and where the part's middle lies (-1 to 1).
_PARTS = (
    *((1.0, 1.0, 0.0, 0.0), (0.92, 0.92, 0.0, 0.0), (0.85, 0.85, 0.0, 0.0)),
    *((0.92, 1.0, -0.08, 0.0), (0.92, 1.0, 0.08, 0.0)),
    *((1.0, 0.85, 0.0, -0.15), (1.0, 0.85, 0.0, 0.0), (1.0, 0.85, 0.0, 0.15)),
    *((1.0, 0.72, 0.0, -0.14), (1.0, 0.72, 0.0, 0.0), (1.0, 0.72, 0.0, 0.14)),
)


class ImageLookup:
    """Known images, prepared so that others are compared with them quickly."""

    def __init__(self, known: Sequence[GreyImage]) -> None:
        """Prepare ``known``, grey images (H, W) uint8 of any sizes."""
        self._known = [small_copy(image) for image in known]
        self._equal: dict[tuple[tuple[int, ...], bytes], list[int]] = {}
        for position, image in enumerate(self._known):
            self._equal.setdefault(_key(image), []).append(position)
        # (V, K, 400)
        self._looks = _looks(self._known) if known else np.zeros((1, 0, 1), np.float32)

    def find(self, images: Sequence[GreyImage]) -> list[list[int]]:
        """Return for each image the positions of the known ones that show the same scan.

        Args:
            images: grey images (H, W) uint8 of any sizes.
        """
        small = [small_copy(image) for image in images]
        found = [set(self._equal.get(_key(image), ())) for image in small]
        if self._known and small:
            for position, known in self._twins(small):
                found[position].add(known)
        return [sorted(positions) for positions in found]

    def _twins(self, images: Sequence[GreyImage]) -> list[tuple[int, int]]:
        looks = _looks(images)
        similarity = np.maximum(_best(looks[0], self._looks), _best(self._looks[0], looks).T)
        rough = similarity >= _MIN_SIMILARITY
        asked = np.flatnonzero(rough.any(axis=1)).tolist()
        candidates = np.flatnonzero(rough.any(axis=0)).tolist()
        if not asked:
            return []
        pairs = find_twins([images[i] for i in asked], [self._known[k] for k in candidates])
        return [(asked[pair.first], candidates[pair.second]) for pair in pairs]


def _key(image: GreyImage) -> tuple[tuple[int, ...], bytes]:
    return image.shape, image.tobytes()


def _best(whole: _Floats, parts: _Floats) -> _Floats:
    """(N, K): highest cosine of N looks (N, 400) with K images' looks (V, K, 400)."""
    best: _Floats = (parts @ whole.T).max(axis=0).T
    return best


def _looks(images: Sequence[GreyImage]) -> _Floats:
    """What is seen in each part of N images, as unit vectors (V, N, 400)."""
    small: _Floats = np.stack([_small(image) for image in images]).astype(np.float32) / 255
    detail: _Floats = small - _blur(small, _WIDE)
    detail /= np.sqrt(np.maximum(_blur(detail * detail, _WIDE), 0)) + 0.03
    detail = _blur(detail, _NARROW)
    parts = [rows @ detail @ columns.T for rows, columns in _WINDOWS]
    vectors: _Floats = np.stack(parts).reshape(len(_WINDOWS), len(small), -1)
    vectors -= vectors.mean(axis=2, keepdims=True)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=2, keepdims=True), 1e-3)
    return vectors


def _small(image: GreyImage) -> GreyImage:
    shape = (_SIDE, _SIDE)
    resized = Image.fromarray(image).resize(shape, Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


def _blur(images: _Floats, kernel: _Floats) -> _Floats:
    blurred: _Floats = kernel @ images @ kernel.T
    return blurred


def _gaussian(sigma: float) -> _Floats:
    """Blur along an axis as a matrix (64, 64); its weights are renormalised at the border."""
    at = np.arange(_SIDE)
    kernel = np.exp(-((at - at[:, None]) ** 2) / (2 * sigma**2))
    return _shares(kernel)


def _window(share: float, middle: float) -> _Floats:
    """Averages over 20 equal pieces of a part of an axis, as a matrix (20, 64)."""
    edges = (np.linspace(middle - share, middle + share, _GRID + 1) + 1) / 2 * _SIDE
    pixels = np.arange(_SIDE)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return _shares(np.maximum(covered, 0))


def _shares(weights: _Floats) -> _Floats:
    """Scale the rows of a matrix so that each sums to 1."""
    shares: npt.NDArray[np.float32] = (weights / weights.sum(axis=1, keepdims=True)).astype("f4")
    return shares


_WIDE, _NARROW = _gaussian(4.0), _gaussian(1.5)
_WINDOWS = tuple((_window(h, y), _window(w, x)) for h, w, y, x in _PARTS)
