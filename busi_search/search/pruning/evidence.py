"""Compare a trial with the best one on some folds, image by image."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, rankdata

from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult
from busi_search.spec import MINIMISED_METRICS
from busi_search.training import metrics
from busi_search.training.weighted_metrics import weighted_metric

Indices = npt.NDArray[np.int64]
Influence = npt.NDArray[np.float64]

# Within a fold, hope is looked at from this share of its epochs on.
FIRST_LOOK = 0.3


def auc_influence(scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_]) -> Influence:
    """Return each image's influence on a binary AUC (DeLong et al. 1988, structural components).

    Args:
        scores: (N,) larger means more positive.
        positive: (N,) truth.

    Returns:
        (N,) values whose mean square divided by N estimates the variance of the AUC.
    """
    num_images, num_positive = len(positive), int(positive.sum())
    num_negative = num_images - num_positive
    influence = np.zeros(num_images)
    if num_positive == 0 or num_negative == 0:
        return influence
    overall = rankdata(scores)
    above = (overall[positive] - rankdata(scores[positive])) / num_negative
    below = 1 - (overall[~positive] - rankdata(scores[~positive])) / num_positive
    area = above.mean()
    influence[positive] = (above - area) * num_images / num_positive
    influence[~positive] = (below - area) * num_images / num_negative
    return influence


def _metric_influence(
    log_probabilities: npt.NDArray[np.floating], labels: Indices, metric: str, positive: int
) -> tuple[float, Influence]:
    """Return a metric's value and every image's influence on it, by formula or by jackknife."""
    num_classes = log_probabilities.shape[1]
    if metric == "auc":
        classes = [positive] if num_classes == 2 else list(range(num_classes))
        parts = [auc_influence(log_probabilities[:, c], labels == c) for c in classes]
        value = metrics.auc(log_probabilities, labels, positive=positive)
        return value, np.mean(parts, axis=0)
    num_images = len(labels)
    # Row 0 keeps every image, row i + 1 leaves image i out.
    keep = np.vstack([np.ones((1, num_images)), 1 - np.eye(num_images)])
    probabilities = metrics.softmax(log_probabilities)
    values = weighted_metric(metric, probabilities, labels, keep, positive=positive)
    whole = float(values[0])
    return whole, (num_images - 1) * (whole - np.nan_to_num(values[1:], nan=whole))


class Difference(NamedTuple):
    """By how much a trial is better than the best one on a fold, and the variance of that."""

    value: float
    variance: float


@dataclass(frozen=True)
class Evidence:
    """How sure the folds so far are that a trial is worse than the best one.

    Attributes:
        difference: mean over folds of the trial's score minus the best trial's, positive = better.
        standard_error: of that mean, from paired images.
        p_value: probability of a difference this low if the two were equal (one-sided).
        overtaking_index: from 0 (hopeless) to 1, whether the trial's mean over all folds will be
            above the best trial's. The formula is that of a predictive probability, if the folds to
            come differ as those so far do (clinical trials stopped for futility; Spiegelhalter et
            al. 1986), but it is not a calibrated one: the best trial was lucky, and fewer trials
            overtake it than the index says. Forgiving after one fold, decisive when one is left.
    """

    difference: float
    standard_error: float
    p_value: float
    overtaking_index: float


def paired_difference(
    fold: FoldResult,
    best: FoldResult,
    labels: Indices,
    groups: Indices,
    *,
    metric: str,
    positive: int,
) -> Difference:
    """Compare two configurations image by image on a fold that both have finished.

    An image that is hard for one is hard for the other and cancels: five means cannot show what a
    hundred paired images can. Images of a group move together.

    Args:
        fold: of the trial in question.
        best: the same fold of the best finished trial.
        labels: (V,) of the fold's validation images.
        groups: (V,) their groups.
        metric: name of the metric compared.
        positive: the class that binary figures are about.
    """
    sign = -1.0 if metric in MINIMISED_METRICS else 1.0
    value, influence = _metric_influence(fold.log_probabilities, labels, metric, positive)
    rival, rival_influence = _metric_influence(best.log_probabilities, labels, metric, positive)
    _, member = np.unique(groups, return_inverse=True)
    per_group = np.bincount(member, weights=influence - rival_influence)
    return Difference(sign * (value - rival), float(np.sum(per_group**2)) / len(labels) ** 2)


def hoped_difference(
    val_auc: Sequence[float],
    best: FoldResult,
    share: float,
    labels: Indices,
    *,
    best_epochs: int,
    positive: int,
) -> Difference | None:
    """Return by how much a fold that is not finished may become better, in AUC, than the best's.

    The highest AUC that it has shown is compared with the lowest of the best trial from that point
    on. Single looks vary by 0.03, and comparing look with look stopped good trials. The variance is
    that of the best trial's AUC, because there are no paired predictions.

    Args:
        val_auc: of the trial in question at every look so far.
        best: the same fold of the best finished trial.
        share: of its epochs that the trial in question has behind it.
        labels: (V,) of the fold's validation images.
        best_epochs: that the best trial was meant to be trained for.
        positive: the class that binary figures are about.

    Returns:
        None while it is too early to say, or where the best trial was not looked at on the way.
    """
    looks = zip(best.val_epochs, best.val_auc, strict=True)
    later = [auc for epoch, auc in looks if epoch / best_epochs >= share - 1e-9]
    if share < FIRST_LOOK or not later or len(best.val_epochs) < 2:
        return None
    _, influence = _metric_influence(best.log_probabilities, labels, "auc", positive)
    return Difference(max(val_auc) - min(later), float(np.mean(influence**2)) / len(labels))


def weigh(
    finished: Sequence[Difference], num_folds: int, *, hoped: Difference | None = None
) -> Evidence:
    """Return what the differences on some of ``num_folds`` folds say together.

    Args:
        finished: of the folds that the trial has finished.
        num_folds: of the whole cross-validation.
        hoped: of a fold that it has begun; as little is known for sure as before it.
    """
    seen = [*finished, hoped] if hoped is not None else finished
    difference = float(np.mean([fold.value for fold in seen]))
    error = math.sqrt(sum(fold.variance for fold in seen)) / len(seen)
    # The mean of all folds is what is seen plus what is to come; its error, seen from here.
    to_come = error * math.sqrt(1 - len(finished) / num_folds)
    return Evidence(
        difference,
        error,
        p_value=_normal_share_above_zero(difference, error),
        overtaking_index=_normal_share_above_zero(difference, to_come),
    )


def paired_differences(
    context: StudyContext, folds: Sequence[FoldResult], best: Mapping[int, FoldResult]
) -> list[Difference]:
    """Compare a trial with the best one, image by image, on every fold that it has finished.

    Args:
        context: the study.
        folds: of the trial in question.
        best: all folds of the best finished trial, by index.
    """
    differences = []
    for fold in folds:
        images = context.partition.folds[fold.fold].validation
        differences.append(
            paired_difference(
                fold,
                best[fold.fold],
                context.development.labels[images],
                context.groups[images],
                metric=context.spec.study.metric,
                positive=context.development.positive,
            )
        )
    return differences


def _normal_share_above_zero(mean: float, error: float) -> float:
    if error == 0.0:
        return 0.0 if mean < 0 else 1.0
    return float(norm.cdf(mean / error))
