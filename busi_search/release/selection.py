"""Which trial wins, and what its score is worth after so many were tried."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from busi_search.spec import MINIMISED_METRICS
from busi_search.training.weighted_metrics import fold_mean_metric, group_weights

# A resample leaves out 36.8 % of the images, so a left-out score varies sqrt((1 - .368) / .368) =
# 1 / .763 times as much as one of all images. The choice itself varies too; .8 was picked by
# simulation and covers 94.5 to 98.5 % there (benchmarks/selection_bias.py).
OUT_OF_BAG_FACTOR = 0.8


@dataclass(frozen=True)
class Estimate:
    """A figure of the best of many trials, corrected for having been chosen.

    Attributes:
        value: what to expect on new patients from the same source.
        low, high: 95 % interval.
        naive: the best trial's own figure, which flatters itself.
    """

    value: float
    low: float
    high: float
    naive: float


def bias_corrected_estimate(
    labels: npt.NDArray[np.integer],
    probabilities: npt.NDArray[np.floating],
    *,
    groups: npt.NDArray[np.integer] | None = None,
    folds: npt.NDArray[np.integer] | None = None,
    metric: str = "auc",
    positive: int = 1,
    num_bootstraps: int = 1000,
    seed: int = 0,
) -> Estimate:
    """Estimate the score of "take the best trial" without the luck of the choice.

    Bootstrap bias-corrected cross-validation (Tsamardinos et al. 2018,
    10.1007/s10994-018-5714-4): each resample chooses its best trial on the images it drew and
    scores it on those it left out. Whole groups are drawn, since twins are not independent. The
    interval is that of the left-out scores, narrowed by ``OUT_OF_BAG_FACTOR``.

    Args:
        labels: (N,) integers.
        probabilities: (T, N, C) out-of-fold predictions of T finished trials.
        groups: (N,) groups of images; None for independent images.
        folds: (N,) fold of each image, for a mean over folds; None pools all images.
        metric: name of the metric.
        positive: for C = 2, the class that binary figures are about.
        num_bootstraps: number of resamples.
        seed: of the resampling.

    Raises:
        ValueError: the shapes disagree.
    """
    num_trials, num_images, _ = probabilities.shape
    if labels.shape != (num_images,):
        raise ValueError(f"labels have shape {labels.shape}, expected ({num_images},)")
    rng = np.random.default_rng(seed)
    own_group = np.arange(num_images) if groups is None else groups
    drawn = group_weights(own_group, num_bootstraps=num_bootstraps, rng=rng)
    # The first row is the data as it is: its best trial is the one the search reports.
    drawn = np.concatenate([np.ones((1, num_images)), drawn])
    left_out = (drawn == 0).astype(np.float64)
    inside = np.empty((num_trials, len(drawn)))
    outside = np.empty((num_trials, len(drawn)))
    for index in range(num_trials):
        rows = probabilities[index].astype(np.float64)
        both = np.concatenate([drawn, left_out])
        values = fold_mean_metric(metric, rows, labels, both, folds, positive=positive)
        inside[index], outside[index] = np.split(values, 2)
    sign = -1.0 if metric in MINIMISED_METRICS else 1.0
    # The trial that each resample would have chosen.
    ranked = np.where(np.isfinite(inside), sign * inside, -np.inf)
    chosen = ranked.argmax(axis=0)
    naive = float(inside[chosen[0], 0])
    left_out_scores = outside[chosen[1:], np.arange(1, len(drawn))]
    left_out_scores = left_out_scores[np.isfinite(left_out_scores)]
    centre = float(np.mean(left_out_scores))
    value = naive if num_trials == 1 else centre
    low, high = OUT_OF_BAG_FACTOR * np.quantile(left_out_scores - centre, [0.025, 0.975])
    return Estimate(value=value, low=value + float(low), high=value + float(high), naive=naive)
