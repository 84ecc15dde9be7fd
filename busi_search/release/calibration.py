"""Temperature and operating point: chosen on out-of-fold predictions, applied unchanged."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from busi_search.spec import OperatingRule

TEMPERATURE_BOUNDS = (0.05, 20.0)


def fit_temperature(
    log_probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> float:
    """Return the temperature that minimises the log loss of out-of-fold predictions.

    Args:
        log_probabilities: (N, C) logits or log-probabilities.
        labels: (N,) integers.

    Returns:
        T > 0; probabilities become softmax(logits / T). Above 1 the model was too sure.

    Source: Guo et al. 2017, "On calibration of modern neural networks".
    """
    rows = np.maximum(log_probabilities.astype(np.float64), -50.0)
    index = np.arange(len(labels))

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(rows / np.exp(log_temperature), axis=1)
        return float(-np.mean(scaled[index, labels]))

    low, high = np.log(TEMPERATURE_BOUNDS)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def apply_temperature(
    log_probabilities: npt.NDArray[np.floating], temperature: float
) -> npt.NDArray[np.float64]:
    """Return (N, C) probabilities softmax(log_probabilities / temperature)."""
    rows = np.maximum(log_probabilities.astype(np.float64), -50.0)
    result: npt.NDArray[np.float64] = np.exp(log_softmax(rows / temperature, axis=1))
    return result


def cross_fitted_probabilities(
    log_probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    fold_of: npt.NDArray[np.integer],
) -> npt.NDArray[np.float64]:
    """Return out-of-fold predictions, each fold's divided by the temperature of the other folds.

    They are what the fold models say once they are calibrated, on images on which neither weights
    nor temperature were fitted.

    Args:
        log_probabilities: (N, C) log-probabilities; NaN for images of folds that were not trained.
        labels: (N,) integers.
        fold_of: (N,) fold of each image, whatever it is where nothing is predicted.

    Returns:
        (N, C) probabilities, NaN where nothing is predicted. A single fold has no other: its
        temperature is its own.
    """
    known = np.isfinite(log_probabilities[:, 0])
    result = np.full(log_probabilities.shape, np.nan)
    for fold in np.unique(fold_of[known]):
        inside = known & (fold_of == fold)
        others = known & ~inside
        fitted_on = others if others.any() else inside
        temperature = fit_temperature(log_probabilities[fitted_on], labels[fitted_on])
        result[inside] = apply_temperature(log_probabilities[inside], temperature)
    return result


@dataclass(frozen=True)
class OperatingPoint:
    """From which probability of the positive class on an image counts as positive.

    Attributes:
        threshold: probability; an image at or above it is called positive.
        sensitivity: on the out-of-fold predictions it was chosen on.
        specificity: likewise.
    """

    threshold: float
    sensitivity: float
    specificity: float


def choose_operating_point(
    scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], rule: OperatingRule
) -> OperatingPoint:
    """Return the point that a rule asks for.

    Args:
        scores: (N,) probability of the positive class.
        positive: (N,) truth; both kinds are there.
        rule: what the point has to reach.
    """
    threshold = _choose_threshold(scores.astype(np.float64), positive, rule)
    called = scores >= threshold
    return OperatingPoint(
        threshold=threshold,
        sensitivity=float(np.mean(called[positive])),
        specificity=float(np.mean(~called[~positive])),
    )


def _choose_threshold(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], rule: OperatingRule
) -> float:
    ranked = np.sort(scores[positive if rule.rule == "sensitivity" else ~positive])
    # So many may lie on the wrong side; rounding must not take one away.
    allowed = int(np.floor((1 - rule.at_least) * len(ranked) + 1e-9))
    if rule.rule == "sensitivity":
        return float(ranked[allowed])
    if rule.rule == "specificity":
        # The next larger number than the first negative that must stay below.
        return float(np.nextafter(ranked[len(ranked) - allowed - 1], np.inf))
    assert rule.threshold_probability is not None, "checked where the rule is read"
    return _most_beneficial(scores, positive, rule.threshold_probability)


def _most_beneficial(
    scores: npt.NDArray[np.float64], positive: npt.NDArray[np.bool_], probability: float
) -> float:
    """Return the threshold of highest net benefit; of equal ones that nearest to ``probability``.

    Source: Vickers and Elkin 2006, "Decision curve analysis".
    """
    odds = probability / (1 - probability)
    # Above all scores nobody is called, which must be possible, too.
    thresholds = np.append(np.unique(scores), np.nextafter(scores.max(), np.inf))
    ranked = [np.sort(scores[kind]) for kind in (positive, ~positive)]
    called = [len(rows) - np.searchsorted(rows, thresholds, side="left") for rows in ranked]
    benefit = called[0] - odds * called[1]
    best = np.flatnonzero(benefit >= benefit.max() - 1e-9)
    return float(thresholds[best[np.argmin(np.abs(thresholds[best] - probability))]])


def cross_fitted_calls(
    log_probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    fold_of: npt.NDArray[np.integer],
    *,
    positive: int,
    rule: OperatingRule,
) -> npt.NDArray[np.bool_]:
    """Return which images are called positive, each fold by the threshold of the other folds.

    What a rule promises on the images that it was chosen on is too good; this is what it does on
    others.

    Args:
        log_probabilities: (N, C) out-of-fold log-probabilities.
        labels: (N,) integers; both kinds are in every fold.
        fold_of: (N,) fold of each image; at least two.
        positive: index of the positive class.
        rule: what the point has to reach.
    """
    called = np.zeros(len(labels), dtype=bool)
    for fold in np.unique(fold_of):
        inside = fold_of == fold
        temperature = fit_temperature(log_probabilities[~inside], labels[~inside])
        scores = apply_temperature(log_probabilities, temperature)[:, positive]
        point = choose_operating_point(scores[~inside], labels[~inside] == positive, rule)
        called[inside] = scores[inside] >= point.threshold
    return called


@dataclass(frozen=True)
class Calibration:
    """What is fixed on out-of-fold predictions and goes to new images unchanged.

    Attributes:
        temperature: divides the logarithm of the averaged probabilities.
        operating_point: on the calibrated probability of the positive (malignant) class.
    """

    temperature: float
    operating_point: OperatingPoint
