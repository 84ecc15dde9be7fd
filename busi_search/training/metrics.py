"""Pure functions from probabilities and labels to numbers."""

import numpy as np
import numpy.typing as npt
from scipy import special
from scipy.stats import rankdata
from sklearn import metrics as sk

Probabilities = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]

NUM_CALIBRATION_BINS = 15


def softmax(logits: Probabilities) -> npt.NDArray[np.float64]:
    """Return probabilities (N, C) of logits (N, C), computed in double precision."""
    result: npt.NDArray[np.float64] = special.softmax(logits.astype(np.float64), axis=-1)
    return result


def binary_auc(scores: Probabilities, positive: npt.NDArray[np.bool_]) -> float:
    """Return the area under the ROC curve by ranks (Mann–Whitney), ties counting one half.

    Args:
        scores: (N,) larger means more positive.
        positive: (N,) truth; both kinds must occur, else the result is NaN.
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    rank_sum = float(rankdata(scores)[positive].sum())
    return (rank_sum - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative)


def auc(probabilities: Probabilities, labels: Labels, *, positive: int = 1) -> float:
    """Return the AUC: of ``positive`` for two classes, macro one-versus-rest for more.

    Args:
        probabilities: (N, C).
        labels: (N,) integers in [0, C).
        positive: the class reported for C = 2.
    """
    num_classes = probabilities.shape[1]
    if num_classes == 2:
        return binary_auc(probabilities[:, positive], labels == positive)
    values = [binary_auc(probabilities[:, c], labels == c) for c in range(num_classes)]
    return float(np.mean(values))


def average_precision(probabilities: Probabilities, labels: Labels, *, positive: int = 1) -> float:
    """Return the area under the precision–recall curve (average precision), as :func:`auc`."""
    num_classes = probabilities.shape[1]
    classes = [positive] if num_classes == 2 else list(range(num_classes))
    values = [
        sk.average_precision_score(labels == c, probabilities[:, c])
        if np.any(labels == c)
        else np.nan
        for c in classes
    ]
    return float(np.mean(values))


def expected_calibration_error(
    probabilities: Probabilities, labels: Labels, *, num_bins: int = NUM_CALIBRATION_BINS
) -> float:
    """Return the expected calibration error of the top class (Guo et al. 2017), in [0, 1].

    Confidences fall into ``num_bins`` bins of equal width; the result is the mean distance
    between a bin's accuracy and its mean confidence, weighted by its share of the images. Noise
    makes it larger: a perfectly calibrated model has about 0.11 on 60 images and 0.05 on 300
    (:func:`busi_search.release.calibration_figures.binned_error_if_calibrated`).
    """
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    gaps = np.bincount(bins, weights=correct - confidence, minlength=num_bins)
    return float(np.abs(gaps).sum() / len(labels))


def brier_score(probabilities: Probabilities, labels: Labels) -> float:
    """Return the Brier score: mean squared distance to the one-hot truth, summed over classes."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(np.mean(np.sum((probabilities - truth) ** 2, axis=1)))


def compute_metrics(
    probabilities: Probabilities, labels: Labels, *, positive: int = 1
) -> dict[str, float]:
    """Return all figures of a fold or a test set.

    Args:
        probabilities: (N, C), rows summing to 1.
        labels: (N,) integers in [0, C).
        positive: for C = 2, the class that AUC, AUPR, F1, precision and recall are about; for
            more classes these are macro averages.

    Returns:
        ``auc``, ``aupr``, ``accuracy``, ``balanced_accuracy``, ``f1``, ``precision``, ``recall``,
        ``log_loss`` (nats), ``brier``, ``ece``. AUC and AUPR are NaN where a class is absent.
    """
    num_classes = probabilities.shape[1]
    predicted = probabilities.argmax(axis=1)
    binary = num_classes == 2
    precision, recall, f1, _ = sk.precision_recall_fscore_support(
        labels,
        predicted,
        labels=[positive] if binary else list(range(num_classes)),
        average="macro",
        zero_division=0.0,
    )
    present = np.unique(labels)
    recalls = [float(np.mean(predicted[labels == c] == c)) for c in present]
    chosen = np.clip(probabilities[np.arange(len(labels)), labels].astype(np.float64), 1e-15, 1)
    return {
        "auc": auc(probabilities, labels, positive=positive),
        "aupr": average_precision(probabilities, labels, positive=positive),
        "accuracy": float(np.mean(predicted == labels)),
        "balanced_accuracy": float(np.mean(recalls)),
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "log_loss": float(-np.mean(np.log(chosen))),
        "brier": brier_score(probabilities, labels),
        "ece": expected_calibration_error(probabilities, labels),
    }
