"""Is an image like the training images? A simple answer from ten statistics of its grey levels."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

# Share of images like the training images that may lie beyond the limit.
SHARE_BEYOND = 0.05
# Statistics are of a copy of at most this many pixels a side: finer grain differs by scanner.
SIDE_PIXELS = 64
# Added to the variance of each standardised statistic: another scanner may differ from the training
# images by as much as these differ from one another.
RIDGE = 1.0
# Parts of the training images; each is measured by a check that was learned on the others.
NUM_PARTS = 5
# Share of pixels with a colour of their own from which a picture is no grey ultrasound image.
COLOURED_LIMIT = 0.1
# Statistics that models hold, by the name stored with them; the first were the only ones earlier.
BRIGHTNESS, BRIGHTNESS_AND_TEXTURE = "brightness", "brightness and texture"
_SMALLEST = 1e-3
_IMAGES_PER_BLOCK = 512

_Array = npt.NDArray[np.float64]
_Pixels = npt.NDArray[np.uint8]


def image_statistics(pixels: _Pixels, kind: str = BRIGHTNESS_AND_TEXTURE) -> _Array:
    """Return statistics of each image, all of them independent of what it shows where.

    Of brightness: mean grey and its standard deviation (in shares of white), shares of nearly black
    and nearly white pixels, and the mean absolute difference of neighbouring pixels.

    Of texture: how much more neighbours differ down the image than across it, at two scales (an
    ultrasound beam resolves depth better than width, photographs have no such direction); how
    evenly the differences are spread, at two scales (speckle lies everywhere; drawings, text and
    charts have few edges and flat ground between them); and how local contrast rises with local
    brightness (speckle is multiplicative, the noise of cameras is not).

    Args:
        pixels: (N, S, S) uint8 grey images; (N, 2, S, S) of two regions.
        kind: ``brightness and texture``, or ``brightness`` alone, for models of earlier versions.

    Returns:
        (N, 10); of two regions (N, 20); of brightness alone (N, 5) and (N, 10).
    """
    if pixels.ndim == 4:
        regions = [image_statistics(region, kind) for region in pixels.swapaxes(0, 1)]
        return np.concatenate(regions, axis=1)
    # Block by block: as numbers of 8 bytes, all images of a large set would fill the memory.
    starts = range(0, len(pixels), _IMAGES_PER_BLOCK)
    blocks = [_statistics(pixels[at : at + _IMAGES_PER_BLOCK], kind) for at in starts]
    return np.concatenate(blocks)


def _statistics(pixels: _Pixels, kind: str) -> _Array:
    if kind == BRIGHTNESS:
        return _brightness(pixels.astype(np.float64) / 255)
    if pixels.shape[1] > SIDE_PIXELS:
        pixels = np.stack([_resized(image) for image in pixels])
    grey = pixels.astype(np.float64) / 255
    brightness, coarse = _brightness(grey), _halved(grey)
    # In logarithms: twice as fine and half as fine are equally far.
    brightness[:, 4] = np.log(brightness[:, 4] + _SMALLEST)
    return np.column_stack([
        brightness, *_direction_and_evenness(grey), *_direction_and_evenness(coarse), _speckle(grey)
    ])  # fmt: skip


def _resized(image: _Pixels) -> _Pixels:
    size = (SIDE_PIXELS, SIDE_PIXELS)
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _brightness(grey: _Array) -> _Array:
    axes = (1, 2)
    down, across = (np.abs(np.diff(grey, axis=axis)).mean(axis=axes) for axis in axes)
    return np.stack(
        [
            grey.mean(axis=axes),
            grey.std(axis=axes),
            (grey < 0.04).mean(axis=axes),
            (grey > 0.96).mean(axis=axes),
            (down + across) / 2,
        ],
        axis=1,
    )


def _direction_and_evenness(grey: _Array) -> tuple[_Array, _Array]:
    """Logarithms: differences down over those across; their mean over their root mean square."""
    steps = [np.diff(grey, axis=axis) for axis in (1, 2)]
    down, across = (np.abs(step).mean(axis=(1, 2)) for step in steps)
    root = np.sqrt(sum((step**2).mean(axis=(1, 2)) for step in steps))
    direction = np.log((down + _SMALLEST) / (across + _SMALLEST))
    return direction, np.log((down + across + _SMALLEST) / (root + _SMALLEST))


def _speckle(grey: _Array) -> _Array:
    """Correlation, over blocks of 4 by 4 pixels, of standard deviation and mean."""
    count, blocks = len(grey), grey.shape[1] // 4
    cut = grey[:, : 4 * blocks, : 4 * blocks].reshape(count, blocks, 4, blocks, 4)
    means = cut.mean(axis=(2, 4)).reshape(count, -1)
    spreads = cut.std(axis=(2, 4)).reshape(count, -1)
    together = (means - means.mean(axis=1, keepdims=True)) * spreads
    result: _Array = together.mean(axis=1) / (means.std(axis=1) * spreads.std(axis=1) + 1e-4)
    return result


def _halved(grey: _Array) -> _Array:
    """(N, S/2, S/2): means of two by two pixels; of an odd side the last pixels are left out."""
    half = grey.shape[1] // 2
    result: _Array = grey[:, : 2 * half, : 2 * half].reshape(-1, half, 2, half, 2).mean(axis=(2, 4))
    return result


@dataclass(frozen=True)
class OutOfDistributionCheck:
    """The statistics of the training images, and how far from them is far.

    A distance beyond the limit says that an image looks different from nearly all of them. A
    distance below it does not say that the model knows such images: another organ, scanner or
    disease may have the same grey levels.

    Attributes:
        centre: (F,) mean of the statistics: F is 10, 20 of two regions, and half of it for models
            of earlier versions.
        scale: (F,) their standard deviations.
        precision: (F, F) inverse of the ridged correlation matrix.
        limit: distance that five in a hundred images like them exceed; one in a hundred, for models
            of earlier versions.
        kind: which statistics, see :func:`image_statistics`.
        share_beyond: share of such images that exceeds the limit.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float
    kind: str = BRIGHTNESS_AND_TEXTURE
    share_beyond: float = SHARE_BEYOND

    def distance(self, pixels: _Pixels) -> _Array:
        """Return (N,) Mahalanobis distances of uint8 images as the model sees them."""
        found = image_statistics(pixels, self.kind)
        rows = (found - np.asarray(self.centre)) / np.asarray(self.scale)
        squared = np.einsum("ni,ij,nj->n", rows, np.asarray(self.precision), rows)
        result: _Array = np.sqrt(np.maximum(squared, 0))
        return result

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads; it is stored in the model's metadata."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "OutOfDistributionCheck":
        """Return what :meth:`to_json` gave, of this version or an earlier one."""
        return cls(
            centre=tuple(stored["centre"]),
            scale=tuple(stored["scale"]),
            precision=tuple(tuple(row) for row in stored["precision"]),
            limit=float(stored["limit"]),
            kind=str(stored.get("kind", BRIGHTNESS)),
            share_beyond=float(stored.get("share_beyond", 0.01)),
        )


def fit_out_of_distribution_check(
    pixels: _Pixels, groups: npt.NDArray[np.int64] | None = None
) -> OutOfDistributionCheck:
    """Learn what the images of a development set look like.

    The limit is set on images that did not take part: each fifth of the groups is measured by a
    check that was learned on the other four fifths.

    Args:
        pixels: (N, S, S) or (N, 2, S, S) uint8, N at least 2, as the model sees them.
        groups: (N,) which images belong together, such as a patient's; None: each stands alone.
    """
    rows = image_statistics(pixels)
    groups = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    part = np.random.default_rng(0).permutation(int(groups.max()) + 1)[groups] % NUM_PARTS
    distances = np.zeros(len(rows))
    for index in range(NUM_PARTS):
        inside = part == index
        others = rows[~inside] if (~inside).sum() >= 2 else rows
        distances[inside] = _distances(rows[inside], *_fit(others))
    centre, scale, precision = _fit(rows)
    return OutOfDistributionCheck(
        tuple(centre.tolist()),
        tuple(scale.tolist()),
        tuple(tuple(row) for row in precision.tolist()),
        limit=float(np.quantile(distances, 1 - SHARE_BEYOND)),
    )


def _fit(rows: _Array) -> tuple[_Array, _Array, _Array]:
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), _SMALLEST)
    standard = (rows - centre) / scale
    correlation = standard.T @ standard / len(rows)
    return centre, scale, np.linalg.inv(correlation + RIDGE * np.eye(rows.shape[1]))


def _distances(rows: _Array, centre: _Array, scale: _Array, precision: _Array) -> _Array:
    standard = (rows - centre) / scale
    result: _Array = np.sqrt(np.einsum("ni,ij,nj->n", standard, precision, standard))
    return result
