"""The winner against the known systems of its study, corrected for the choice."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from busi_search.release.pruned_trials import fill_pruned
from busi_search.release.selection import choose_trial
from busi_search.spec import MINIMISED_METRICS
from busi_search.training.weighted_metrics import fold_mean_metric, group_weights

Array = npt.NDArray[np.float64]

# Each resample draws twice as many groups as there are, so that it chooses on 86 % of the images.
DRAWS_PER_GROUP = 2
# The pair's own bootstrap does not know that another trial might have been chosen; intervals
# widened by this cover as they should in simulated searches (benchmarks/known_systems.py).
WIDENING = 1.06


@dataclass(frozen=True)
class CorrectedDifference:
    """By how much a study's winner is better than one of its known systems.

    Attributes:
        value: what to expect on new images from the same source; positive = the winner is better.
        low, high: 95 % interval.
        naive: the difference as found, which favours the winner.
        p_value: probability of a corrected difference this high if the winner were no better
            (one-sided).
    """

    value: float
    low: float
    high: float
    naive: float
    p_value: float


def corrected_differences(
    labels: npt.NDArray[np.integer],
    probabilities: npt.NDArray[np.floating],
    *,
    winner: int,
    recipes: Mapping[int, npt.NDArray[np.integer]],
    groups: npt.NDArray[np.integer],
    folds: npt.NDArray[np.integer],
    metric: str,
    positive: int = 1,
    costs: npt.NDArray[np.floating] | None = None,
    tolerance: float = 0.0,
    num_bootstraps: int = 1000,
    seed: int = 0,
) -> dict[int, CorrectedDifference]:
    """Compare the best trial with known systems, which were not chosen for their scores.

    A winner of thirty equal trials beats each of them on the images it was chosen on. So the choice
    is repeated, as in :func:`~busi_search.release.selection.bias_corrected_estimates`: each
    resample of groups chooses its best trial on the images it drew, and that trial is compared with
    the known system on the images it left out. The mean of these differences is the corrected one.
    Its interval is that of the paired bootstrap of winner and known system, moved to the corrected
    difference and ``WIDENING`` times as wide; the p value is of the same spread.

    Args:
        labels: (N,) integers.
        probabilities: (T, N, C) out-of-fold predictions of T trials, known systems among them; NaN
            for the images of folds that a pruned trial never saw.
        winner: row of the chosen trial.
        recipes: for the row of each known system but the winner, the folds that it finished; only
            these are compared.
        groups: (N,) groups of images.
        folds: (N,) fold of each image.
        metric: name of the objective, which the choice follows.
        positive: for C = 2, the class that binary figures are about.
        costs: (T,) what the choice among nearly equal trials follows, or None.
        tolerance: how much worse than the best the choice may be.
        num_bootstraps: number of resamples.
        seed: of the resampling.

    Returns:
        The differences by row of the known system.
    """
    filled = fill_pruned(
        probabilities,
        labels,
        folds,
        metric=metric,
        positive=positive,
        rng=np.random.default_rng([seed, 1]),
    ).astype(np.float64)
    sign = -1.0 if metric in MINIMISED_METRICS else 1.0

    def scores(trial: int, weights: Array, images: npt.NDArray[np.bool_]) -> Array:
        rows, truth = filled[trial, images], labels[images]
        drawn, fold_of = weights[:, images], folds[images]
        return sign * fold_mean_metric(metric, rows, truth, drawn, fold_of, positive=positive)

    rng = np.random.default_rng(seed)
    drawn = group_weights(
        groups, num_bootstraps=num_bootstraps, rng=rng, draws_per_group=DRAWS_PER_GROUP
    )
    resampled = group_weights(groups, num_bootstraps=num_bootstraps, rng=rng)
    every = np.ones(len(labels), dtype=bool)
    inside = np.stack([scores(trial, drawn, every) for trial in range(len(filled))])
    chosen = choose_trial(inside, costs, tolerance)
    left_out = (drawn == 0).astype(np.float64)
    as_it_is = np.ones((1, len(labels)))
    found = {}
    for recipe, finished in recipes.items():
        images = np.isin(folds, finished)
        outside = -scores(recipe, left_out, images)
        for trial in np.unique(chosen):
            rows = chosen == trial
            outside[rows] += scores(int(trial), left_out[rows], images)
        value = float(np.nanmean(outside))
        naive, own = (
            scores(winner, weights, images) - scores(recipe, weights, images)
            for weights in (as_it_is, resampled)
        )
        spread = WIDENING * (own - np.nanmean(own))
        low, high = value + np.nanquantile(spread, [0.025, 0.975])
        found[recipe] = CorrectedDifference(
            value=value,
            low=float(low),
            high=float(high),
            naive=float(naive[0]),
            p_value=float((1 + np.sum(spread >= value)) / (1 + np.isfinite(spread).sum())),
        )
    return found
