"""A version beside the champion on the same sealed test."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from busi_search.release.figures import NUM_BOOTSTRAPS, percentiles
from busi_search.training import metrics
from busi_search.training.weighted_metrics import group_weights, weighted_metric


@dataclass(frozen=True)
class Difference:
    """By how much a version is better than the champion, in AUC.

    Attributes:
        auc: its AUC minus the champion's.
        ci95: 95 % interval.
        probability_worse: share of the resamples in which the version is the worse one.
    """

    auc: float
    ci95: tuple[float, float]
    probability_worse: float


@dataclass(frozen=True)
class AgainstChampion:
    """What is known of a version beside the champion.

    Attributes:
        champion: number of the champion's version.
        found: the difference, or in one sentence why the two cannot be compared.
    """

    champion: str
    found: Difference | str

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as ``evaluate --json`` prints it."""
        if isinstance(self.found, str):
            return {"champion": self.champion, "comparable": False, "reason": self.found}
        return {
            "champion": self.champion,
            "comparable": True,
            "auc_difference": self.found.auc,
            "ci95": list(self.found.ci95),
            "probability_worse": self.found.probability_worse,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the comparison that :meth:`to_json` gave."""
        if not stored["comparable"]:
            return cls(stored["champion"], stored["reason"])
        low, high = stored["ci95"]
        difference = Difference(stored["auc_difference"], (low, high), stored["probability_worse"])
        return cls(stored["champion"], difference)


def paired_difference(
    candidate: npt.NDArray[np.floating],
    champion: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    positive: int,
) -> Difference:
    """Compare two models' AUC on the same images by a paired group bootstrap.

    Args:
        candidate: (N, C) probabilities.
        champion: (N, C) the champion's.
        labels: (N,) integers.
        groups: (N,) groups that are resampled whole.
        positive: for C = 2, the class that the AUC is of.
    """
    drawn = group_weights(groups, num_bootstraps=NUM_BOOTSTRAPS, rng=np.random.default_rng(0))
    pair = [np.asarray(rows, dtype=np.float64) for rows in (candidate, champion)]
    samples = [weighted_metric("auc", rows, labels, drawn, positive=positive) for rows in pair]
    difference = samples[0] - samples[1]
    difference = difference[np.isfinite(difference)]
    values = [metrics.auc(rows, labels, positive=positive) for rows in pair]
    return Difference(
        auc=values[0] - values[1],
        ci95=percentiles(difference),
        probability_worse=float(np.mean(difference < 0)),
    )
