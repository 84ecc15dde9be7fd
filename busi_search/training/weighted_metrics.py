"""Metrics of many weighted resamples of the same predictions at once."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from busi_search.training.metrics import NUM_CALIBRATION_BINS

Array = npt.NDArray[np.float64]
Labels = npt.NDArray[np.integer]


def group_weights(
    groups: Labels, *, num_bootstraps: int, rng: np.random.Generator, draws_per_group: int = 1
) -> Array:
    """Return (B, N) weights: how often each image is drawn when whole groups are resampled.

    Args:
        groups: (N,) group of each image.
        num_bootstraps: B.
        rng: source of randomness.
        draws_per_group: one bootstrap draws this many times as many groups as there are.
    """
    _, member = np.unique(groups, return_inverse=True)
    num_groups = int(member.max()) + 1
    counts = rng.multinomial(
        draws_per_group * num_groups, np.full(num_groups, 1 / num_groups), size=num_bootstraps
    )
    weights: Array = counts[:, member].astype(np.float64)
    return weights


def leave_part_out_weights(
    groups: Labels,
    *,
    strata: tuple[Labels, ...],
    num_parts: int,
    num_resamples: int,
    rng: np.random.Generator,
) -> Array:
    """Return (B, N) weights: 0 for the part of the groups that a resample leaves out, 1 elsewhere.

    Each random partition gives ``num_parts`` resamples, one for each part, so that every image is
    left out once in each partition.

    Args:
        groups: (N,) group of each image.
        strata: (N,) properties of the images, the last one first, such as label and fold; groups
            that agree in all of them are spread evenly over the parts.
        num_parts: no more than there are groups.
        num_resamples: B, rounded up to whole partitions.
        rng: source of randomness.
    """
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    part_of = np.empty(len(first), dtype=int)
    rows = []
    for _ in range(-(-num_resamples // num_parts)):
        order = np.lexsort((rng.random(len(first)), *(stratum[first] for stratum in strata)))
        part_of[order] = np.arange(len(first)) % num_parts
        rows.append(part_of[member] != np.arange(num_parts)[:, None])
    return np.concatenate(rows).astype(np.float64)


def _ratio(above: Array, below: Array) -> Array:
    with np.errstate(invalid="ignore", divide="ignore"):
        result: Array = np.where(below > 0, above / below, np.nan)
    return result


def weighted_auc(scores: Array, positive: npt.NDArray[np.bool_], weights: Array) -> Array:
    """Return the (B,) area under the ROC curve of each row of weights; ties count one half.

    Args:
        scores: (N,) larger means more positive.
        positive: (N,) truth.
        weights: (B, N) non-negative weight of each image. NaN where one kind has no weight.
    """
    order = np.argsort(scores[~positive], kind="stable")
    negatives = scores[~positive][order]
    negative_weights = weights[:, ~positive][:, order]
    below = np.zeros((len(weights), len(negatives) + 1))
    np.cumsum(negative_weights, axis=1, out=below[:, 1:])
    left = np.searchsorted(negatives, scores[positive], side="left")
    right = np.searchsorted(negatives, scores[positive], side="right")
    positive_weights = weights[:, positive]
    wins = 0.5 * np.sum(positive_weights * (below[:, left] + below[:, right]), axis=1)
    return _ratio(wins, positive_weights.sum(axis=1) * below[:, -1])


def weighted_average_precision(
    scores: Array, positive: npt.NDArray[np.bool_], weights: Array
) -> Array:
    """Return the (B,) average precision of each row of weights; see :func:`weighted_auc`."""
    order = np.argsort(-scores, kind="stable")
    drawn = weights[:, order]
    hits = np.cumsum(drawn * positive[order], axis=1)
    seen = np.cumsum(drawn, axis=1)
    last_of_ties = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))
    hits, seen = hits[:, last_of_ties], seen[:, last_of_ties]
    gained = np.diff(hits, axis=1, prepend=0.0)
    precision = np.nan_to_num(_ratio(hits, seen))
    return _ratio(np.sum(gained * precision, axis=1), hits[:, -1])


def _mean_over_classes(
    function: Callable[[Array, npt.NDArray[np.bool_], Array], Array],
    probabilities: Array,
    labels: Labels,
    weights: Array,
    positive: int,
) -> Array:
    num_classes = probabilities.shape[1]
    classes = [positive] if num_classes == 2 else list(range(num_classes))
    values = [function(probabilities[:, c], labels == c, weights) for c in classes]
    result: Array = np.mean(values, axis=0)
    return result


def _confusion(probabilities: Array, labels: Labels, weights: Array) -> Array:
    """Return (B, C, C) weighted counts of (truth, prediction)."""
    num_classes = probabilities.shape[1]
    cell = labels * num_classes + probabilities.argmax(axis=1)
    table: Array = weights @ np.eye(num_classes * num_classes)[cell]
    return table.reshape(len(weights), num_classes, num_classes)


def _decisions(
    metric: str, probabilities: Array, labels: Labels, weights: Array, positive: int
) -> Array:
    """Metrics of the most probable class, from the weighted confusion matrix."""
    table = _confusion(probabilities, labels, weights)
    hits = np.diagonal(table, axis1=1, axis2=2)
    truth, predicted = table.sum(axis=2), table.sum(axis=1)
    if metric == "accuracy":
        return _ratio(hits.sum(axis=1), truth.sum(axis=1))
    recall = _ratio(hits, truth)
    if metric == "balanced_accuracy":
        # The mean over the classes that were drawn.
        return _ratio(np.nansum(recall, axis=1), np.sum(truth > 0, axis=1).astype(np.float64))
    per_class: Array = {
        "recall": np.nan_to_num(recall),
        "precision": np.nan_to_num(_ratio(hits, predicted)),
        "f1": np.nan_to_num(_ratio(2 * hits, truth + predicted)),
    }[metric]
    if probabilities.shape[1] == 2:
        per_class = per_class[:, [positive]]
    result: Array = per_class.mean(axis=1)
    return result


def _calibration_error(probabilities: Array, labels: Labels, weights: Array) -> Array:
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == labels) - confidence
    bins = np.ceil(confidence * NUM_CALIBRATION_BINS).astype(int) - 1
    member = np.eye(NUM_CALIBRATION_BINS)[np.clip(bins, 0, NUM_CALIBRATION_BINS - 1)]
    sums = weights @ (member * gap[:, None])
    return _ratio(np.abs(sums).sum(axis=1), weights.sum(axis=1))


def weighted_metric(
    metric: str, probabilities: Array, labels: Labels, weights: Array, *, positive: int = 1
) -> Array:
    """Return a metric of :func:`busi_search.training.metrics.compute_metrics` per resample.

    Args:
        metric: its name.
        probabilities: (N, C).
        labels: (N,) integers.
        weights: (B, N) non-negative weight of each image.
        positive: for C = 2, the class that binary figures are about.

    Returns:
        (B,) values; NaN where the weights leave a class empty that the metric needs.
    """
    if metric == "auc":
        return _mean_over_classes(weighted_auc, probabilities, labels, weights, positive)
    if metric == "aupr":
        return _mean_over_classes(
            weighted_average_precision, probabilities, labels, weights, positive
        )
    if metric == "ece":
        return _calibration_error(probabilities, labels, weights)
    if metric in ("log_loss", "brier"):
        chosen = np.clip(probabilities[np.arange(len(labels)), labels], 1e-15, 1)
        losses = -np.log(chosen)
        if metric == "brier":
            truth = np.eye(probabilities.shape[1])[labels]
            losses = np.sum((probabilities - truth) ** 2, axis=1)
        return _ratio(weights @ losses, weights.sum(axis=1))
    return _decisions(metric, probabilities, labels, weights, positive)


def fold_mean_metric(
    metric: str,
    probabilities: Array,
    labels: Labels,
    weights: Array,
    folds: Labels | None,
    *,
    positive: int = 1,
) -> Array:
    """Return (B,) means over folds of a weighted metric; over all images if ``folds`` is None.

    Folds whose resample lacks a class are left out of the mean of that resample.
    """
    if folds is None:
        return weighted_metric(metric, probabilities, labels, weights, positive=positive)
    values = [
        weighted_metric(
            metric,
            probabilities[folds == fold],
            labels[folds == fold],
            weights[:, folds == fold],
            positive=positive,
        )
        for fold in np.unique(folds)
    ]
    stacked = np.asarray(values)
    present = np.isfinite(stacked)
    return _ratio(np.where(present, stacked, 0).sum(axis=0), present.sum(axis=0).astype(float))
