"""The figures of a test report, with intervals; pure functions and what they return."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix

from busi_search.files import without_nan
from busi_search.release.calibration_figures import (
    binned_error,
    binned_error_if_calibrated,
    calibration_curve,
    calibration_figures,
)
from busi_search.release.delong import delong_interval
from busi_search.release.intervals import Figure, percentiles, with_intervals
from busi_search.training import metrics
from busi_search.training.weighted_metrics import group_weights, weighted_metric

NUM_BOOTSTRAPS = 2000
RELIABILITY_BINS = 10
DECISION_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
WITH_INTERVALS = (
    "auc",
    "aupr",
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "log_loss",
    "brier",
    "ece",
)


@dataclass(frozen=True)
class TestFigures:
    """What a model scores on test images, in full precision.

    Attributes:
        num_images, num_groups: what was scored.
        metrics: every name of ``WITH_INTERVALS``.
        calibration: of the positive class, every name of ``CALIBRATION_FIGURES``; NaN where the
            images say nothing.
        ece_if_calibrated: the ``ece`` of a perfectly calibrated model on these images, on average.
        sensitivity, specificity: of the positive class at the operating point.
        auc_delong_ci95: DeLong's interval of the AUC, images of a group together.
        operating_threshold: probability from which an image is called positive, chosen elsewhere.
        positive_class: its name.
        confusion: images by true class (rows) and most probable class.
        per_class: ``num_images``, ``auc``, ``recall``, ``precision``, ``specificity`` and ``f1`` by
            name of the class.
        reliability: see :func:`reliability_bins`.
        calibration_curve: of the positive class; see :func:`.calibration_curve`.
        decision_curve: ``threshold``, ``net_benefit`` and ``act_on_all``.
    """

    # Not a test, whatever its name begins with.
    __test__ = False

    num_images: int
    num_groups: int
    metrics: Mapping[str, Figure]
    calibration: Mapping[str, Figure]
    ece_if_calibrated: float
    sensitivity: Figure
    specificity: Figure
    auc_delong_ci95: tuple[float, float]
    operating_threshold: float
    positive_class: str
    confusion: Sequence[Sequence[int]]
    per_class: Mapping[str, Mapping[str, float]]
    reliability: Sequence[Mapping[str, float]]
    calibration_curve: Sequence[Mapping[str, float]]
    decision_curve: Sequence[Mapping[str, float]]

    def figure(self, name: str) -> Figure:
        """Return a figure by its name: a metric, of calibration, or at the operating point."""
        at_the_point = {"sensitivity": self.sensitivity, "specificity": self.specificity}
        return {**self.metrics, **self.calibration, **at_the_point}[name]

    def to_json(self) -> dict[str, Any]:
        """Return the figures as ``evaluate --json`` prints them; intervals as ``NAME_ci95``.

        What cannot be computed from so few images is None.
        """
        found = {
            "num_images": self.num_images,
            "num_groups": self.num_groups,
            **with_intervals(self.metrics),
            **with_intervals(self.calibration),
            "ece_if_calibrated": self.ece_if_calibrated,
            "auc_delong_ci95": list(self.auc_delong_ci95),
            "operating_threshold": self.operating_threshold,
            "positive_class": self.positive_class,
            **with_intervals({"sensitivity": self.sensitivity, "specificity": self.specificity}),
            "confusion": [list(row) for row in self.confusion],
            "per_class": {name: dict(found) for name, found in self.per_class.items()},
            "reliability": [dict(found) for found in self.reliability],
            "calibration_curve": [dict(found) for found in self.calibration_curve],
            "decision_curve": [dict(found) for found in self.decision_curve],
        }
        cleaned: dict[str, Any] = without_nan(found)
        return cleaned


def compute_test_figures(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    class_names: tuple[str, ...],
    positive: int,
    threshold: float,
) -> TestFigures:
    """Return every figure of a test report, with 95 % intervals that know of the groups.

    Args:
        probabilities: (N, C), calibrated.
        labels: (N,) integers.
        groups: (N,) groups that are resampled whole.
        class_names: C names.
        positive: the class (malignant) that operating point and decision curve are about.
        threshold: operating point, chosen elsewhere.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    values = metrics.compute_metrics(rows, labels, positive=positive)
    drawn = group_weights(groups, num_bootstraps=NUM_BOOTSTRAPS, rng=np.random.default_rng(0))
    samples = {
        name: weighted_metric(name, rows, labels, drawn, positive=positive)
        for name in WITH_INTERVALS
        if name != "ece"
    }
    found = {name: Figure(values[name], percentiles(sample)) for name, sample in samples.items()}
    scores, truth = rows[:, positive], labels == positive
    table = confusion_matrix(labels, rows.argmax(axis=1), labels=list(range(len(class_names))))
    return TestFigures(
        num_images=len(labels),
        num_groups=len(np.unique(groups)),
        metrics=found | {"ece": binned_error(rows, labels, drawn, value=values["ece"])},
        calibration=calibration_figures(scores, truth, groups),
        ece_if_calibrated=binned_error_if_calibrated(rows.max(axis=1), groups),
        sensitivity=_share_right(scores >= threshold, truth, truth, drawn, groups),
        specificity=_share_right(scores >= threshold, truth, ~truth, drawn, groups),
        auc_delong_ci95=delong_interval(rows, labels, groups, positive=positive),
        operating_threshold=threshold,
        positive_class=class_names[positive],
        confusion=table.tolist(),
        per_class=_per_class(table, rows, labels, class_names),
        reliability=reliability_bins(rows, labels),
        calibration_curve=calibration_curve(scores, truth, groups),
        decision_curve=_decision_curve(scores, truth),
    )


def shares_right(
    called: npt.NDArray[np.bool_], truth: npt.NDArray[np.bool_], groups: npt.NDArray[np.integer]
) -> tuple[Figure, Figure]:
    """Return sensitivity and specificity of calls, with 95 % intervals that resample groups.

    Args:
        called: (N,) whether an image was called positive.
        truth: (N,) whether it is.
        groups: (N,) groups that are resampled whole.
    """
    drawn = group_weights(groups, num_bootstraps=NUM_BOOTSTRAPS, rng=np.random.default_rng(0))
    return (
        _share_right(called, truth, truth, drawn, groups),
        _share_right(called, truth, ~truth, drawn, groups),
    )


def _share_right(
    called: npt.NDArray[np.bool_],
    truth: npt.NDArray[np.bool_],
    kind: npt.NDArray[np.bool_],
    drawn: npt.NDArray[np.float64],
    groups: npt.NDArray[np.integer],
) -> Figure:
    """Return which share of the images of a kind is called what it is; NaN without such images."""
    if not kind.any():
        return Figure(math.nan, (math.nan, math.nan))
    right = (called == truth).astype(float)
    inside = drawn[:, kind]
    with np.errstate(invalid="ignore"):
        sample = (inside @ right[kind]) / inside.sum(axis=1)
    value = float(right[kind].mean())
    return Figure(value, percentiles(sample, value, len(np.unique(groups[kind]))))


def _per_class(
    table: npt.NDArray[np.integer],
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.integer],
    class_names: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    result = {}
    for c, name in enumerate(class_names):
        hits, truth, predicted = table[c, c], table[c].sum(), table[:, c].sum()
        others = table.sum() - truth
        result[name] = {
            "num_images": int(truth),
            "auc": metrics.binary_auc(rows[:, c], labels == c),
            "recall": float(hits / truth) if truth else math.nan,
            "precision": float(hits / predicted) if predicted else 0.0,
            "specificity": float((others - predicted + hits) / others) if others else math.nan,
            "f1": float(2 * hits / (truth + predicted)) if truth + predicted else 0.0,
        }
    return result


def reliability_bins(
    rows: npt.NDArray[np.float64], labels: npt.NDArray[np.integer]
) -> list[dict[str, float]]:
    """Return mean confidence and accuracy of the most probable class, by bins of confidence.

    Args:
        rows: (N, C) probabilities.
        labels: (N,) integers.

    Returns:
        ``num_images``, ``confidence`` and ``accuracy`` of each of the ten bins that is not empty.
    """
    confidence, correct = rows.max(axis=1), rows.argmax(axis=1) == labels
    bins = np.clip((confidence * RELIABILITY_BINS).astype(int), 0, RELIABILITY_BINS - 1)
    return [
        {
            "num_images": int(np.sum(bins == b)),
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(correct[bins == b].mean()),
        }
        for b in range(RELIABILITY_BINS)
        if np.any(bins == b)
    ]


def _decision_curve(
    scores: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]
) -> list[dict[str, float]]:
    """Net benefit of acting on the model, and of acting on everyone (Vickers & Elkin 2006)."""
    curve = []
    for threshold in DECISION_THRESHOLDS:
        odds = threshold / (1 - threshold)
        called = scores >= threshold
        benefit = np.mean(called & truth) - odds * np.mean(called & ~truth)
        everyone = np.mean(truth) - odds * np.mean(~truth)
        curve.append(
            {"threshold": threshold, "net_benefit": float(benefit), "act_on_all": float(everyone)}
        )
    return curve
