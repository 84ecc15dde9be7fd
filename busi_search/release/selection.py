"""Which trial wins, and its score without the optimism of having been chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState
from scipy.special import expit, logit

from busi_search.release.pruned_trials import fill_pruned
from busi_search.search.store.records import (
    known_folds,
    main_value,
    objective_value,
    standard_error,
)
from busi_search.spec import COSTS, MINIMISED_METRICS, StudySection
from busi_search.training.weighted_metrics import fold_mean_metric, leave_part_out_weights

Array = npt.NDArray[np.float64]

# Each resample leaves out one of so many parts of the groups. With fewer parts it would choose on
# fewer images, and so a little worse than the search did; with more, the estimate is noisier
# (measured: docs/explanation/honest-numbers.md).
NUM_PARTS = 5
# The chosen trial's own error knows neither that another might have been chosen nor that the luck
# of the choice is itself an estimate; intervals widened by this cover as they should in simulated
# searches (benchmarks/selection_bias.py).
WIDENING = 1.08
# A lucky loss is small, and so is its standard error.
WIDENING_OF_LOSSES = 1.2
NORMAL_97_5 = 1.96
SMALLEST_LOSS = 1e-6


@dataclass(frozen=True)
class Estimate:
    """A figure of the best of many trials, without the optimism of having been chosen.

    Attributes:
        value: what to expect on new images from the same source, and on new patients where the
            groups are patients.
        low, high: 95 % interval.
        naive: the best trial's own figure, which is optimistic.
    """

    value: float
    low: float
    high: float
    naive: float

    def to_json(self) -> dict[str, float | None]:
        """Return the estimate by the names of its attributes; None for what is not known."""
        found = {"value": self.value, "low": self.low, "high": self.high, "naive": self.naive}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    @staticmethod
    def from_json(found: Mapping[str, float | None]) -> "Estimate":
        """Return the estimate that :meth:`to_json` wrote.

        Args:
            found: what it returned.
        """
        return Estimate(**{k: math.nan if v is None else v for k, v in found.items()})


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
    """Estimate the score of the best trial without the optimism of having been chosen.

    The same figure chooses the trials; see :func:`bias_corrected_estimates` for several figures.

    Args:
        labels: (N,) integers.
        probabilities: (T, N, C) out-of-fold predictions of T trials; NaN for the images of folds
            that a pruned trial never saw.
        groups: (N,) groups of images; None for independent images.
        folds: (N,) fold of each image, for a mean over folds; None pools all images.
        metric: name of the figure.
        positive: for C = 2, the class that binary figures are about.
        num_bootstraps: number of resamples.
        seed: of the resampling.
    """
    found = bias_corrected_estimates(
        labels,
        probabilities,
        metrics=(metric,),
        select_by=metric,
        groups=groups,
        folds=folds,
        positive=positive,
        num_bootstraps=num_bootstraps,
        seed=seed,
    )
    return found[metric]


def bias_corrected_estimates(
    labels: npt.NDArray[np.integer],
    probabilities: npt.NDArray[np.floating],
    *,
    metrics: Sequence[str],
    select_by: str,
    groups: npt.NDArray[np.integer] | None = None,
    folds: npt.NDArray[np.integer] | None = None,
    positive: int = 1,
    costs: npt.NDArray[np.floating] | None = None,
    tolerance: float = 0.0,
    num_bootstraps: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate several figures of the trial that is chosen by one of them.

    As in bootstrap bias-corrected cross-validation (Tsamardinos et al. 2018,
    10.1007/s10994-018-5714-4), each resample chooses its best trial on a part of the images and
    scores it on the others. Here it leaves out one of ``NUM_PARTS`` random parts of the groups
    (whole groups, since twins are not independent; each class of each fold spread evenly). What
    is left out is scored by the jackknife's pseudo-value (Tukey 1958): with K parts, K times the
    figure of all images minus K - 1 times the figure of those that were kept. For a mean over
    images that is the mean over those left out; figures that depend on the number of images (F1,
    calibration error) stay comparable, and lose most of the bias that few images give them. One
    trial leaves no choice and is not corrected.

    The interval has the chosen trial's jackknife standard error, on the logit scale (the log scale
    for losses), where such figures vary evenly, widened by ``WIDENING`` where there was a choice.
    It never reaches 0 or 1, except where the figure itself does.

    Args:
        labels: (N,) integers.
        probabilities: (T, N, C) out-of-fold predictions of T trials; NaN for the images of folds
            that a pruned trial never saw, which are lent by others (:func:`fill_pruned`). Only a
            trial that has all can be the winner.
        metrics: names of the figures.
        select_by: the figure that the choice follows.
        groups: (N,) groups of images; None for independent images.
        folds: (N,) fold of each image, for a mean over folds; None pools all images.
        positive: for C = 2, the class that binary figures are about.
        costs: (T,) another property of the trials; among those within ``tolerance`` of the best,
            the cheapest is chosen. None: the best is.
        tolerance: how much worse the chosen trial may be.
        num_bootstraps: number of resamples (rounded up to whole partitions).
        seed: of the resampling.

    Raises:
        ValueError: the shapes disagree, or no trial has all predictions.
    """
    num_trials, num_images, _ = probabilities.shape
    if labels.shape != (num_images,):
        raise ValueError(f"labels have shape {labels.shape}, expected ({num_images},)")
    complete = np.isfinite(probabilities[:, :, 0]).all(axis=1)
    if not complete.any():
        raise ValueError("no trial has predictions for all images")
    if not complete.all():
        if folds is None:
            raise ValueError("trials with missing predictions need the folds of the images")
        # Not the generator of the resamples: these stay what they are without pruned trials.
        chance = np.random.default_rng([seed, 1])
        probabilities = fill_pruned(
            probabilities, labels, folds, metric=select_by, positive=positive, rng=chance
        )
    rng = np.random.default_rng(seed)
    own_group = np.arange(num_images) if groups is None else groups
    own_fold = np.zeros(num_images, dtype=int) if folds is None else folds
    num_groups = len(np.unique(own_group))
    num_parts = min(NUM_PARTS, num_groups)
    # The first row is the data as it is: its best trial is the one the search reports.
    as_it_is = np.ones((1, num_images))

    def partitions(*strata: npt.NDArray[np.integer]) -> Array:
        return leave_part_out_weights(
            own_group, strata=strata, num_parts=num_parts, num_resamples=num_bootstraps, rng=rng
        )

    # For the choice, each class is spread evenly; for the error, its share varies as it may.
    kept, kept_for_error = partitions(labels, own_fold), partitions(own_fold)

    def scores(metric: str, weights: Array, trials: Sequence[int]) -> Array:
        figure = partial(
            fold_mean_metric, metric, labels=labels, weights=weights, folds=folds, positive=positive
        )
        return np.stack([figure(probabilities[trial].astype(np.float64)) for trial in trials])

    every = range(num_trials)
    weights = np.concatenate([as_it_is, kept])
    sign = -1.0 if select_by in MINIMISED_METRICS else 1.0
    objective = scores(select_by, weights, every)
    ranked = sign * objective
    ranked[~complete, 0] = -np.inf
    chosen = choose_trial(ranked, costs, tolerance)
    winner, resample = int(chosen[0]), np.arange(1, len(weights))
    estimates = {}
    for metric in metrics:
        figures = objective if metric == select_by else scores(metric, weights, every)
        whole = figures[:, 0]
        naive = value = float(scores(metric, as_it_is, [winner])[0, 0])
        if num_trials > 1:
            inside = figures[chosen[1:], resample]
            left_out = num_parts * whole[chosen[1:]] - (num_parts - 1) * inside
            known = left_out[np.isfinite(left_out)]
            value = float(np.mean(known)) if len(known) else math.nan
            # A mean of pseudo-values may pass the end of the scale; half a pair of groups is left.
            half = 0.5 / num_groups**2
            if math.isfinite(value):
                value = max(half, value if metric in MINIMISED_METRICS else min(value, 1 - half))
        own = scores(metric, kept_for_error, [winner])[0]
        known = own[np.isfinite(own)]
        error = math.sqrt((num_parts - 1) * np.var(known)) if len(known) else math.nan
        width = WIDENING_OF_LOSSES if metric in MINIMISED_METRICS else WIDENING
        width = width if num_trials > 1 else 1.0
        low, high = _interval(value, naive, width * error, metric, num_groups)
        estimates[metric] = Estimate(value=value, low=low, high=high, naive=naive)
    return estimates


def select_trial(trials: Sequence[FrozenTrial], section: StudySection) -> FrozenTrial | None:
    """Return the trial that a study releases, by the rule its file states; None if none is done.

    ``best``: the best first objective, the earliest of equals. ``one_standard_error``: the smallest
    by the second objective (else by ``num_parameters``) among those no worse than the best minus
    its standard error over the folds.
    """
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return None
    sign = -1.0 if section.direction == "minimize" else 1.0
    scores = sign * np.array([[main_value(trial)] for trial in complete], dtype=np.float64)
    costs, tolerance = choice_rule(complete, section)
    return complete[int(choose_trial(scores, costs, tolerance)[0])]


def choice_rule(
    trials: Sequence[FrozenTrial], section: StudySection
) -> tuple[npt.NDArray[np.float64] | None, float]:
    """Return the costs of the trials and how much worse than the best the choice may be.

    Pruned trials have costs, too: a metric is the mean over the folds that they finished, at least
    one each. At least one trial is complete.
    """
    if section.winner == "best":
        return None, 0.0
    index = 1 if section.further_objectives else None
    sign = 1.0 if index is None or section.directions[index] == "minimize" else -1.0
    name = section.objectives[index] if index else COSTS[0]
    costs = [sign * objective_value(trial, known_folds(trial), name) for trial in trials]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    better = max if section.direction == "maximize" else min
    best = better(complete, key=lambda trial: trial.values[0])
    tolerance = standard_error(best)
    assert tolerance is not None, "every complete trial has one"
    # What has no finite cost (a class is absent from a fold) is never the cheapest.
    return np.nan_to_num(np.array(costs, dtype=np.float64), nan=np.inf), tolerance


def pareto_front(trials: Sequence[FrozenTrial], section: StudySection) -> list[FrozenTrial]:
    """Return the complete trials that no other beats in one objective and equals in the rest."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    signs = np.array([1.0 if way == "minimize" else -1.0 for way in section.directions])
    costs = [signs * np.array(trial.values, dtype=np.float64) for trial in complete]

    def beaten(own: Array) -> bool:
        return any(bool(np.all(other <= own) and np.any(other < own)) for other in costs)

    return [trial for trial, own in zip(complete, costs, strict=True) if not beaten(own)]


def choose_trial(
    scores: Array, costs: npt.NDArray[np.floating] | None = None, tolerance: float = 0.0
) -> npt.NDArray[np.int64]:
    """Return, for each column, the best trial, or the cheapest that is nearly as good.

    Args:
        scores: (T, B), larger is better; what is not finite is never chosen.
        costs: (T,), smaller is better; None: only the score counts.
        tolerance: how much worse than the best the chosen trial may be.
    """
    ranked = np.where(np.isfinite(scores), scores, -np.inf)
    best: npt.NDArray[np.int64] = ranked.argmax(axis=0)
    if costs is None:
        return best
    near = ranked >= ranked.max(axis=0) - tolerance
    cost = np.where(near, costs[:, None], np.inf)
    # Of equally cheap ones the better.
    cheapest = cost == cost.min(axis=0)
    result: npt.NDArray[np.int64] = np.where(cheapest, ranked, -np.inf).argmax(axis=0)
    return result


def _interval(
    value: float, naive: float, error: float, metric: str, num_groups: int
) -> tuple[float, float]:
    """Return the 95 % interval around ``value``; ``error`` is the standard error of ``naive``."""
    if not (math.isfinite(value) and math.isfinite(error)):
        return math.nan, math.nan
    if metric in MINIMISED_METRICS:
        factor = math.exp(NORMAL_97_5 * error / max(naive, SMALLEST_LOSS))
        return value / factor, max(value, SMALLEST_LOSS) * factor
    if naive in (0.0, 1.0):
        # No mistake in any group: the exact binomial bound (Clopper and Pearson 1934), mirrored.
        bound = 0.025 ** (1 / num_groups)
        end = value * bound if naive == 1.0 else 1 - bound * (1 - value)
        other = float(expit(2 * logit(value) - logit(end)))
        return min(end, other), max(end, other)
    # Near 0 or 1 the slope of the logit is taken half a group away: there it has no end.
    half = 0.5 / num_groups
    steep = min(max(naive, half), 1 - half)
    shift = NORMAL_97_5 * error / (steep * (1 - steep))
    low, high = expit(logit(value) + np.array([-shift, shift]))
    return float(min(low, value)), float(max(high, value))
