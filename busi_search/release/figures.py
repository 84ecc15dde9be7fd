"""The figures of a test report, with intervals; pure functions."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from sklearn.metrics import confusion_matrix

from busi_search.search.pruning.evidence import auc_influence
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


def delong_interval(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], *, positive: int
) -> tuple[float, float]:
    """Return DeLong's 95 % interval of the (macro) AUC, on the logit scale.

    Args:
        probabilities: (N, C).
        labels: (N,) integers.
        positive: the class reported for C = 2.

    Source: DeLong et al. 1988, 10.2307/2531595.
    """
    num_classes = probabilities.shape[1]
    classes = [positive] if num_classes == 2 else list(range(num_classes))
    influence = np.mean([auc_influence(probabilities[:, c], labels == c) for c in classes], axis=0)
    area = metrics.auc(probabilities, labels, positive=positive)
    error = float(np.sqrt(np.sum(influence**2))) / len(labels)
    if not 0 < area < 1:
        return (area, area)
    centre, width = math.log(area / (1 - area)), norm.ppf(0.975) * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-(centre + sign * width))) for sign in (-1, 1))
    return (low, high)


def compute_test_figures(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    class_names: tuple[str, ...],
    positive: int,
    threshold: float,
) -> dict[str, Any]:
    """Return every figure of a test report, with 95 % intervals from a group bootstrap.

    Args:
        probabilities: (N, C), calibrated.
        labels: (N,) integers.
        groups: (N,) groups that are resampled whole.
        class_names: C names.
        positive: the class (malignant) that operating point and decision curve are about.
        threshold: operating point, chosen elsewhere.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    figures: dict[str, Any] = {"num_images": len(labels), "num_groups": len(np.unique(groups))}
    values = metrics.compute_metrics(rows, labels, positive=positive)
    drawn = group_weights(groups, num_bootstraps=NUM_BOOTSTRAPS, rng=np.random.default_rng(0))
    for name in WITH_INTERVALS:
        figures[name] = values[name]
        sample = weighted_metric(name, rows, labels, drawn, positive=positive)
        figures[f"{name}_ci95"] = _percentiles(sample)
    figures["auc_delong_ci95"] = list(delong_interval(rows, labels, positive=positive))
    scores, truth = rows[:, positive], labels == positive
    called = scores >= threshold
    figures["operating_threshold"] = threshold
    figures["positive_class"] = class_names[positive]
    for name, kind in (("sensitivity", truth), ("specificity", ~truth)):
        right = (called == truth).astype(float)
        figures[name] = float(right[kind].mean())
        inside = drawn[:, kind]
        with np.errstate(invalid="ignore"):
            figures[f"{name}_ci95"] = _percentiles((inside @ right[kind]) / inside.sum(axis=1))
    predicted = rows.argmax(axis=1)
    table = confusion_matrix(labels, predicted, labels=list(range(len(class_names))))
    figures["confusion"] = table.tolist()
    figures["per_class"] = _per_class(table, rows, labels, class_names)
    figures["reliability"] = reliability_bins(rows, labels)
    figures["decision_curve"] = _decision_curve(scores, truth)
    return figures


def _percentiles(sample: npt.NDArray[np.float64]) -> list[float]:
    finite = sample[np.isfinite(sample)]
    return [float(value) for value in np.quantile(finite, [0.025, 0.975])]


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


def paired_difference(
    candidate: npt.NDArray[np.floating],
    champion: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    positive: int,
) -> dict[str, Any]:
    """Compare two models' AUC on the same images by a paired group bootstrap.

    Returns:
        ``auc_difference`` (candidate minus champion), ``ci95``, and ``probability_worse``.
    """
    drawn = group_weights(groups, num_bootstraps=NUM_BOOTSTRAPS, rng=np.random.default_rng(0))
    pair = [np.asarray(rows, dtype=np.float64) for rows in (candidate, champion)]
    samples = [weighted_metric("auc", rows, labels, drawn, positive=positive) for rows in pair]
    difference = samples[0] - samples[1]
    difference = difference[np.isfinite(difference)]
    values = [metrics.auc(rows, labels, positive=positive) for rows in pair]
    return {
        "auc_difference": values[0] - values[1],
        "ci95": _percentiles(difference),
        "probability_worse": float(np.mean(difference < 0)),
    }
