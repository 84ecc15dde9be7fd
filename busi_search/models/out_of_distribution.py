"""Is an image like the training images? A simple answer from five grey-level statistics."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

# Share of the training images that may lie beyond the limit.
SHARE_BEYOND = 0.01
# Added to the variance of each standardised statistic, so that none counts without bound.
RIDGE = 0.05

_Array = npt.NDArray[np.float64]


def image_statistics(pixels: npt.NDArray[np.uint8]) -> _Array:
    """Return five statistics of each image, all of them independent of what it shows where.

    Args:
        pixels: (N, S, S) uint8 grey images; (N, 2, S, S) of two regions.

    Returns:
        (N, 5), of two regions (N, 10): mean grey and its standard deviation (in shares of white),
        shares of nearly black and nearly white pixels, and mean absolute difference of neighbouring
        pixels.
    """
    if pixels.ndim == 4:
        return np.concatenate(
            [image_statistics(region) for region in pixels.swapaxes(0, 1)], axis=1
        )
    grey = pixels.astype(np.float64) / 255
    axes = (1, 2)
    steps = np.abs(np.diff(grey, axis=1)).mean(axis=axes) + np.abs(np.diff(grey, axis=2)).mean(
        axis=axes
    )
    return np.stack(
        [
            grey.mean(axis=axes),
            grey.std(axis=axes),
            (grey < 0.04).mean(axis=axes),
            (grey > 0.96).mean(axis=axes),
            steps / 2,
        ],
        axis=1,
    )


@dataclass(frozen=True)
class OutOfDistributionCheck:
    """The statistics of the training images, and how far from them is far.

    A distance beyond the limit says that an image looks different from nearly all of them. A
    distance below it does not say that the model knows such images: another organ, scanner or
    disease may have the same grey levels.

    Attributes:
        centre: (5,) mean of the statistics, or (10,) of two regions, and so on.
        scale: (5,) their standard deviations.
        precision: (5, 5) inverse of the ridged correlation matrix.
        limit: distance that one in a hundred training images exceeds.
    """

    centre: tuple[float, ...]
    scale: tuple[float, ...]
    precision: tuple[tuple[float, ...], ...]
    limit: float

    def distance(self, pixels: npt.NDArray[np.uint8]) -> _Array:
        """Return (N,) Mahalanobis distances of uint8 images as the model sees them."""
        rows = (image_statistics(pixels) - np.asarray(self.centre)) / np.asarray(self.scale)
        squared = np.einsum("ni,ij,nj->n", rows, np.asarray(self.precision), rows)
        result: _Array = np.sqrt(np.maximum(squared, 0))
        return result

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` reads; it is stored in the model's metadata."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "OutOfDistributionCheck":
        """Return what :meth:`to_json` gave."""
        return cls(
            centre=tuple(stored["centre"]),
            scale=tuple(stored["scale"]),
            precision=tuple(tuple(row) for row in stored["precision"]),
            limit=float(stored["limit"]),
        )


def fit_out_of_distribution_check(pixels: npt.NDArray[np.uint8]) -> OutOfDistributionCheck:
    """Learn what the images of a development set look like.

    Args:
        pixels: (N, S, S) or (N, 2, S, S) uint8, N at least 2, as the model sees them.
    """
    rows = image_statistics(pixels)
    centre, scale = rows.mean(axis=0), np.maximum(rows.std(axis=0), 1e-3)
    standard = (rows - centre) / scale
    precision = np.linalg.inv(standard.T @ standard / len(rows) + RIDGE * np.eye(rows.shape[1]))
    unlimited = OutOfDistributionCheck(
        tuple(centre.tolist()), tuple(scale.tolist()), tuple(map(tuple, precision.tolist())), np.inf
    )
    limit = float(np.quantile(unlimited.distance(pixels), 1 - SHARE_BEYOND))
    return OutOfDistributionCheck(unlimited.centre, unlimited.scale, unlimited.precision, limit)
