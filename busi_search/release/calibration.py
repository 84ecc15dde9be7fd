"""Temperature and operating point: chosen on out-of-fold predictions, applied unchanged."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

TEMPERATURE_BOUNDS = (0.05, 20.0)
DEFAULT_SPECIFICITY = 0.9


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
        specificity: likewise, at least the specificity asked for.
    """

    threshold: float
    sensitivity: float
    specificity: float


def choose_operating_point(
    scores: npt.NDArray[np.floating],
    positive: npt.NDArray[np.bool_],
    *,
    min_specificity: float = DEFAULT_SPECIFICITY,
) -> OperatingPoint:
    """Return the point of highest sensitivity whose specificity is high enough.

    Args:
        scores: (N,) out-of-fold probability of the positive class.
        positive: (N,) truth.
        min_specificity: in (0, 1).
    """
    negatives = np.sort(scores[~positive].astype(np.float64))
    allowed = int(np.floor((1 - min_specificity) * len(negatives) + 1e-9))
    # The next larger number than the first negative that must stay below.
    threshold = float(np.nextafter(negatives[len(negatives) - allowed - 1], np.inf))
    called = scores >= threshold
    return OperatingPoint(
        threshold=threshold,
        sensitivity=float(np.mean(called[positive])),
        specificity=float(np.mean(~called[~positive])),
    )


@dataclass(frozen=True)
class Calibration:
    """What is fixed on out-of-fold predictions and goes to new images unchanged.

    Attributes:
        temperature: divides the logarithm of the averaged probabilities.
        operating_point: on the calibrated probability of the positive (malignant) class.
    """

    temperature: float
    operating_point: OperatingPoint
