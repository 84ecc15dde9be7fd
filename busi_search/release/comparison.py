"""A version beside the champions on the same sealed test."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from scipy.stats import norm

from busi_search.home import Home
from busi_search.models.evaluations import evaluated_figures
from busi_search.models.registry import CHAMPION, RegisteredVersion, list_versions
from busi_search.release.figures import NUM_BOOTSTRAPS
from busi_search.release.intervals import percentiles
from busi_search.search.pruning.evidence import auc_influence
from busi_search.training import metrics
from busi_search.training.weighted_metrics import group_weights, weighted_metric

# How often the images asked for by `Difference.images_needed` suffice.
POWER = 0.8


@dataclass(frozen=True)
class Difference:
    """By how much a version is better than the champion, in AUC.

    Attributes:
        auc: its AUC minus the champion's.
        ci95: 95 % interval.
        probability_worse: share of the resamples in which the version is the worse one.
        standard_error: of ``auc``; see :func:`difference_error`.
    """

    auc: float
    ci95: tuple[float, float]
    probability_worse: float
    standard_error: float

    def lower_bound(self, confidence: float) -> float:
        """Return what the true difference is above, with a one-sided confidence (0.5 to 1)."""
        return self.auc - float(norm.ppf(confidence)) * self.standard_error

    def images_needed(self, num_images: int, *, margin: float, confidence: float) -> int:
        """Return how many test images show an equal model to be no more than a margin worse.

        With so many, the lower bound lies above -margin in 80 % of the tests.

        Args:
            num_images: test images that gave the standard error.
            margin: AUC, above 0.
            confidence: of the lower bound.
        """
        errors = float(norm.ppf(confidence) + norm.ppf(POWER)) * self.standard_error / margin
        return math.ceil(num_images * errors**2)


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
            "standard_error": self.found.standard_error,
        }

    def to_text(self) -> str:
        """Return the comparison in one sentence."""
        if isinstance(self.found, str):
            return f"Not comparable with version {self.champion}: {self.found}."
        low, high = self.found.ci95
        return (
            f"Against version {self.champion}, on the same images: AUC {self.found.auc:+.3f} "
            f"(95 % interval {low:+.3f} to {high:+.3f})."
        )

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Self:
        """Return the comparison that :meth:`to_json` gave."""
        if not stored["comparable"]:
            return cls(stored["champion"], stored["reason"])
        low, high = stored["ci95"]
        # Comparisons made before the standard error was kept have the interval.
        error = stored.get("standard_error", (high - low) / (2 * norm.ppf(0.975)))
        return cls(
            stored["champion"],
            Difference(
                stored["auc_difference"], (low, high), stored["probability_worse"], float(error)
            ),
        )


def rivals(home: Home, version: RegisteredVersion) -> list[RegisteredVersion]:
    """Return whom a version is compared with before it may become champion.

    The present champion comes last; before it stands, where that is another one, the best champion
    so far: of all versions that ever were champion and have the same sealed test, the one with the
    highest test AUC. A champion that replaced a slightly better one is not the measure of the next.

    Args:
        home: where the stores are.
        version: the candidate; one that is the champion has no rivals.
    """
    versions = list_versions(home, name=version.name)
    current = next((other for other in versions if CHAMPION in other.aliases), None)
    if current is None or current.version == version.version:
        return []
    found = []
    for other in versions:
        ever = other.version == current.version or "busi.promoted_at" in other.tags
        same_test = other.tags.get("busi.partition") == version.tags.get("busi.partition")
        if ever and same_test and other.version != version.version:
            figures = evaluated_figures(home, other)
            if figures is not None and figures.get("auc") is not None:
                found.append((figures["auc"], other.version == current.version, other))
    best = max(found, key=lambda item: item[:2])[2] if found else current
    return [current] if best.version == current.version else [best, current]


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
    parts = [auc_parts(rows, labels, positive=positive) for rows in pair]
    return Difference(
        auc=values[0] - values[1],
        ci95=percentiles(difference),
        probability_worse=float(np.mean(difference < 0)),
        standard_error=difference_error(parts[0], parts[1], groups),
    )


def auc_parts(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], *, positive: int
) -> npt.NDArray[np.float64]:
    """Return each image's part in the error of an AUC; their sum of squares is its variance.

    Args:
        probabilities: (N, C).
        labels: (N,) integers.
        positive: for C = 2, the class that the AUC is of; else it is the mean over the classes.

    Source: DeLong et al. 1988, 10.2307/2531595, whose sums are divided by one less than a kind has.
    """
    classes = [positive] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    parts = []
    for one in classes:
        truth = labels == one
        num_alike = np.where(truth, truth.sum(), (~truth).sum())
        scale = np.sqrt(num_alike / np.maximum(num_alike - 1, 1)) / len(labels)
        parts.append(auc_influence(probabilities[:, one], truth) * scale)
    mean: npt.NDArray[np.float64] = np.mean(parts, axis=0)
    return mean


def difference_error(
    parts: npt.NDArray[np.float64],
    others: npt.NDArray[np.float64],
    groups: npt.NDArray[np.integer],
) -> float:
    """Return the standard error of the difference of two AUCs on the same images.

    Args:
        parts: (N,) of :func:`auc_parts`.
        others: (N,) of the other model.
        groups: (N,) groups whose images vary together.
    """
    _, member = np.unique(groups, return_inverse=True)
    return float(np.sqrt(np.sum(np.bincount(member, weights=parts - others) ** 2)))
