"""How well the probability of the positive class does on a set of images, or a part of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.release.calibration_figures import calibration_figures
from busi_search.release.delong import delong_interval
from busi_search.release.intervals import Figure, with_intervals
from busi_search.release.shares import (
    THRESHOLDS,
    UNKNOWN,
    net_benefit,
    predictive_values,
    share,
)
from busi_search.training import metrics

# A figure of fewer groups of positive, or of other, images says nothing.
MIN_GROUPS = 10
CALIBRATION = ("calibration_intercept", "calibration_slope", "observed_expected")


@dataclass(frozen=True)
class PositiveFigures:
    """Figures of the positive class at a frozen operating point.

    Attributes:
        num_images, num_groups, num_positive: what they are of.
        num_unlike: images that look unlike the training images; None: not known.
        figures: ``auc``, ``sensitivity``, ``specificity``, ``ppv``, ``npv``,
            ``calibration_intercept``, ``calibration_slope`` and ``observed_expected``; NaN where
            there are too few groups to say it.
        remark: which figures are missing, and why; empty if none are.
    """

    num_images: int
    num_groups: int
    num_positive: int
    num_unlike: int | None
    figures: Mapping[str, Figure]
    remark: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the figures, intervals as ``NAME_ci95``; null for what is not known."""
        return {
            "num_images": self.num_images,
            "num_groups": self.num_groups,
            "num_positive": self.num_positive,
            "num_unlike": self.num_unlike,
            **with_intervals(self.figures),
            "remark": self.remark,
        }


def positive_figures(
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
    *,
    threshold: float,
    called: npt.NDArray[np.bool_] | None = None,
    unlike: npt.NDArray[np.bool_] | None = None,
    min_groups: int = MIN_GROUPS,
) -> PositiveFigures:
    """Return the figures of a set of images, with 95 % intervals that know of the groups.

    Args:
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        groups: (N,) groups of images that are not independent, such as patients.
        threshold: the operating point; an image at or above it is called positive.
        called: (N,) whether an image was called positive, where another threshold decided.
        unlike: (N,) whether an image looks unlike the training images.
        min_groups: fewer groups of positive, or of other, images say nothing of what needs them.
    """
    rows = np.asarray(scores, dtype=np.float64)
    called = rows >= threshold if called is None else called
    num_positive, num_other = len(np.unique(groups[truth])), len(np.unique(groups[~truth]))
    enough = {"positive": num_positive >= min_groups, "other": num_other >= min_groups}
    found = dict.fromkeys(
        ("auc", "sensitivity", "specificity", "ppv", "npv", *CALIBRATION), UNKNOWN
    )
    if enough["positive"]:
        found["sensitivity"] = share(called[truth], groups[truth])
    if enough["other"]:
        found["specificity"] = share(~called[~truth], groups[~truth])
    if all(enough.values()):
        both = np.stack([1 - rows, rows], axis=1)
        labels = truth.astype(np.int64)
        limits = delong_interval(both, labels, groups, positive=1)
        found["auc"] = Figure(metrics.binary_auc(rows, truth), limits)
        found["ppv"] = share(truth[called], groups[called])
        found["npv"] = share(~truth[~called], groups[~called])
        calibration = calibration_figures(rows, truth, groups)
        found |= {name: calibration[name] for name in CALIBRATION}
    return PositiveFigures(
        num_images=len(rows),
        num_groups=len(np.unique(groups)),
        num_positive=int(truth.sum()),
        num_unlike=None if unlike is None else int(unlike.sum()),
        figures=found,
        remark=_remark(num_positive, num_other, min_groups),
    )


def _remark(num_positive: int, num_other: int, needed: int) -> str:
    if num_positive >= needed and num_other >= needed:
        return ""
    if num_positive < needed and num_other < needed:
        return f"Too few images for any figure ({num_positive} positive, {num_other} other)."
    kind, number = ("positive", num_positive) if num_positive < needed else ("other", num_other)
    figure = "specificity" if kind == "positive" else "sensitivity"
    return f"Only {number} {kind}, so only the {figure} is given."


def at_prevalences(
    figures: Mapping[str, Figure], prevalences: Sequence[float]
) -> list[dict[str, Any]]:
    """Return ``prevalence``, ``ppv`` and ``npv`` for each stated prevalence.

    Args:
        figures: with ``sensitivity`` and ``specificity``.
        prevalences: shares of patients with the disease, each in (0, 1).
    """
    return [
        {
            "prevalence": prevalence,
            **with_intervals(
                predictive_values(figures["sensitivity"], figures["specificity"], prevalence)
            ),
        }
        for prevalence in prevalences
    ]


def net_benefit_rows(
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
) -> list[dict[str, Any]]:
    """Return the decision curve as JSON rows; see :func:`.net_benefit`."""
    return [
        {"threshold": row["threshold"]}
        | with_intervals({k: v for k, v in row.items() if isinstance(v, Figure)})
        for row in net_benefit(
            np.asarray(scores, dtype=np.float64), truth, groups, thresholds=thresholds
        )
    ]
