"""Figures by subgroup: site, device, BI-RADS, age band and lesion size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.subgroups import MAX_LEVELS, image_levels, level_order
from busi_search.release.positive_figures import (
    PositiveFigures,
    net_benefit_rows,
    positive_figures,
)

# Properties that reports compare, by the words that people read. Others, such as the histology,
# may name the very class.
COMPARED = ("site", "device", "BI-RADS", "age", "lesion size")
# Thresholds at which the net benefit of a subgroup is told.
THRESHOLDS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Subgroup:
    """A part of the images and its figures.

    Attributes:
        by: the property, in words.
        level: its value or band.
        figures: of the images that have it.
        net_benefit: of the model over ``THRESHOLDS``, as :func:`.net_benefit_rows` gives it; empty
            where the figures are unknown.
    """

    by: str
    level: str
    figures: PositiveFigures
    net_benefit: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the subgroup as ``evaluate --json`` prints it."""
        return {
            "by": self.by,
            "level": self.level,
            **self.figures.to_json(),
            "net_benefit": [dict(row) for row in self.net_benefit],
        }


def subgroup_levels(dataset: ImageDataset) -> dict[str, tuple[str, ...]]:
    """Return the level of each of the N images, by property; none where nothing is known.

    Properties are ``site``, ``device``, ``BI-RADS``, ``age`` (bands of years) and ``lesion size``
    (share of the image that the mask covers).

    Args:
        dataset: the images; masks are read, pixels are not.
    """
    levels = image_levels(dataset)
    found = {name: tuple(levels[name]) for name in COMPARED if name in levels}
    # A property with one level says nothing that the whole set does not.
    return {name: column for name, column in found.items() if 1 < len(set(column)) <= MAX_LEVELS}


def compute_subgroups(
    levels: Mapping[str, tuple[str, ...]],
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
    *,
    threshold: float,
    called: npt.NDArray[np.bool_] | None = None,
    unlike: npt.NDArray[np.bool_] | None = None,
) -> list[Subgroup]:
    """Return the figures of every subgroup, small ones with a remark in their place.

    Args:
        levels: of :func:`subgroup_levels`.
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        groups: (N,) groups of images that are not independent.
        threshold: the operating point.
        called: (N,) whether an image was called positive, where another threshold decided.
        unlike: (N,) whether an image looks unlike the training images.
    """
    found = []
    for name, values in levels.items():
        column = np.asarray(values)
        for level in sorted(set(values), key=level_order):
            inside = column == level
            figures = positive_figures(
                scores[inside],
                truth[inside],
                groups[inside],
                threshold=threshold,
                called=None if called is None else called[inside],
                unlike=None if unlike is None else unlike[inside],
            )
            benefit = (
                ()
                if figures.remark
                else net_benefit_rows(
                    scores[inside], truth[inside], groups[inside], thresholds=THRESHOLDS
                )
            )
            found.append(Subgroup(name, level, figures, benefit))
    return found
