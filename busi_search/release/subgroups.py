"""Figures by subgroup: site, device, BI-RADS, age band and lesion size."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.release.positive_figures import PositiveFigures, positive_figures

# Columns whose values are subgroups as they stand, by the words that people read.
_COLUMNS = {"site": "site", "device": "device", "birads": "BI-RADS"}
# A column with more values tells images apart and not groups of them.
_MAX_LEVELS = 30
NOT_KNOWN = "not known"
_AGE_LIMITS = (40, 50, 60, 70)
# Share of the image that the lesion covers: about a third of BUS-BRA's and BUSI's images each.
_SIZE_LIMITS = (0.04, 0.10)
_MASKED = 127


@dataclass(frozen=True)
class Subgroup:
    """A part of the images and its figures.

    Attributes:
        by: the property, in words.
        level: its value or band.
        figures: of the images that have it.
    """

    by: str
    level: str
    figures: PositiveFigures

    def to_json(self) -> dict[str, Any]:
        """Return the subgroup as ``evaluate --json`` prints it."""
        return {"by": self.by, "level": self.level, **self.figures.to_json()}


def subgroup_levels(dataset: ImageDataset) -> dict[str, tuple[str, ...]]:
    """Return the level of each of the N images, by property; none where nothing is known.

    Properties are ``site``, ``device``, ``BI-RADS``, ``age`` (bands of years) and ``lesion size``
    (share of the image that the mask covers).

    Args:
        dataset: the images; masks are read, pixels are not.
    """
    found: dict[str, tuple[str, ...]] = {}
    for column, name in _COLUMNS.items():
        if column in dataset.properties:
            values = tuple(v.strip() or NOT_KNOWN for v in dataset.properties[column])
            if len(set(values)) <= _MAX_LEVELS:
                found[name] = values
    if "age" in dataset.properties:
        found["age"] = tuple(_age_band(value) for value in dataset.properties["age"])
    if dataset.masks_digest is not None:
        found["lesion size"] = tuple(
            NOT_KNOWN if mask is None else _size_band(float(np.mean(mask > _MASKED)))
            for mask in dataset.masks()
        )
    # A property with one level says nothing that the whole set does not.
    return {name: levels for name, levels in found.items() if len(set(levels)) > 1}


def _age_band(written: str) -> str:
    try:
        # DICOM writes 057Y.
        years = float(written.strip().upper().removesuffix("Y"))
    except ValueError:
        return NOT_KNOWN
    if not 0 < years < 130:
        return NOT_KNOWN
    bands = ("under 40", "40 to 49", "50 to 59", "60 to 69", "70 and over")
    return bands[int(np.searchsorted(_AGE_LIMITS, years, side="right"))]


def _size_band(covered: float) -> str:
    if covered == 0:
        return "no lesion marked"
    bands = ("under 4 % of the image", "4 to 10 %", "over 10 %")
    return bands[int(np.searchsorted(_SIZE_LIMITS, covered, side="right"))]


def compute_subgroups(
    levels: Mapping[str, tuple[str, ...]],
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
    *,
    threshold: float,
    unlike: npt.NDArray[np.bool_] | None = None,
) -> list[Subgroup]:
    """Return the figures of every subgroup, small ones with a remark in their place.

    Args:
        levels: of :func:`subgroup_levels`.
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        groups: (N,) groups of images that are not independent.
        threshold: the operating point.
        unlike: (N,) whether an image looks unlike the training images.
    """
    found = []
    for name, values in levels.items():
        column = np.asarray(values)
        for level in _ordered(set(values)):
            inside = column == level
            figures = positive_figures(
                scores[inside],
                truth[inside],
                groups[inside],
                threshold=threshold,
                unlike=None if unlike is None else unlike[inside],
            )
            found.append(Subgroup(name, level, figures))
    return found


def _ordered(levels: set[str]) -> list[str]:
    first, last = ("under",), ("over", "no lesion", NOT_KNOWN)

    def place(level: str) -> tuple[int, str]:
        if level.startswith(first):
            return (0, level)
        return (2 if level.startswith(last) else 1, level)

    return sorted(levels, key=place)
