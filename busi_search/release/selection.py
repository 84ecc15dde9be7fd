"""Which trial wins, and what its score is worth after so many were tried."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from busi_search.release.pruned_trials import fill_pruned
from busi_search.search.store.records import main_value, standard_error, stored_costs
from busi_search.spec import COSTS, MINIMISED_METRICS, StudySection
from busi_search.training.weighted_metrics import fold_mean_metric, group_weights

Array = npt.NDArray[np.float64]

# Each resample draws twice as many groups as there are. With as many, it chooses on 63 % of the
# images and so a little worse than the search did; with twice as many, on 86 %, and the rest is
# still enough to score the choice on (measured: docs/explanation/honest-numbers.md).
DRAWS_PER_GROUP = 2
# The chosen trial's own bootstrap does not know that another might have been chosen; intervals
# widened by this cover as they should in simulated searches (benchmarks/selection_bias.py).
WIDENING = 1.06


@dataclass(frozen=True)
class Estimate:
    """A figure of the best of many trials, corrected for having been chosen.

    Attributes:
        value: what to expect on new images from the same source, and on new patients where the
            groups are patients.
        low, high: 95 % interval.
        naive: the best trial's own figure, which flatters itself.
    """

    value: float
    low: float
    high: float
    naive: float

    def to_json(self) -> dict[str, float]:
        """Return the estimate by the names of its attributes."""
        return {"value": self.value, "low": self.low, "high": self.high, "naive": self.naive}


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

    One figure of :func:`bias_corrected_estimates`, for which the trials are also chosen.
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

    Bootstrap bias-corrected cross-validation (Tsamardinos et al. 2018,
    10.1007/s10994-018-5714-4): each resample chooses its best trial on the images it drew and
    scores it on those it left out. Whole groups are drawn, since twins are not independent. A
    left-out score counts by its distance from that trial's mean left-out score, so that figures
    which depend on the number of images (calibration error, F1) are not changed by it.

    The interval is that of the chosen trial's own bootstrap, moved to the corrected value on the
    logit scale (the log scale for losses), where such figures vary evenly, and ``WIDENING`` times
    as wide where there was a choice.

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
        num_bootstraps: number of resamples.
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
    # The first row is the data as it is: its best trial is the one the search reports.
    as_it_is = np.ones((1, num_images))
    drawn = group_weights(
        own_group, num_bootstraps=num_bootstraps, rng=rng, draws_per_group=DRAWS_PER_GROUP
    )
    resampled = group_weights(own_group, num_bootstraps=num_bootstraps, rng=rng)

    def scores(metric: str, weights: Array, trials: Sequence[int]) -> Array:
        rows = [
            fold_mean_metric(
                metric,
                probabilities[trial].astype(np.float64),
                labels,
                weights,
                folds,
                positive=positive,
            )
            for trial in trials
        ]
        return np.stack(rows)

    every = range(num_trials)
    inside = scores(select_by, np.concatenate([as_it_is, drawn]), every)
    sign = -1.0 if select_by in MINIMISED_METRICS else 1.0
    inside *= sign
    inside[~complete, 0] = -np.inf
    chosen = choose_trial(inside, costs, tolerance)
    winner, left_out = int(chosen[0]), (drawn == 0).astype(np.float64)
    estimates = {}
    for metric in metrics:
        whole = scores(metric, as_it_is, every)[:, 0]
        outside = scores(metric, left_out, every)
        usual = np.array([np.mean(row[np.isfinite(row)]) for row in outside])
        taken = outside[chosen[1:], np.arange(num_bootstraps)] + (whole - usual)[chosen[1:]]
        value = float(np.mean(taken[np.isfinite(taken)]))
        own = scores(metric, resampled, [winner])[0]
        width = WIDENING if num_trials > 1 else 1.0
        low, high = _interval(value, own[np.isfinite(own)], metric, width)
        estimates[metric] = Estimate(value=value, low=low, high=high, naive=float(whole[winner]))
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

    Pruned trials have costs, too; at least one trial is complete.
    """
    if section.winner == "best":
        return None, 0.0
    index = 1 if section.further_objectives else None
    sign = 1.0 if index is None or section.directions[index] == "minimize" else -1.0
    name = section.objectives[index] if index else COSTS[0]
    costs = [
        sign * (stored_costs(trial)[name] if name in COSTS else trial.values[1]) for trial in trials
    ]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    better = max if section.direction == "maximize" else min
    best = better(complete, key=lambda trial: trial.values[0])
    tolerance = standard_error(best)
    assert tolerance is not None, "every complete trial has one"
    return np.array(costs, dtype=np.float64), tolerance


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


def _interval(value: float, own: Array, metric: str, width: float) -> tuple[float, float]:
    """Return the interval around ``value`` with ``width`` times the spread of ``own``."""
    loss = metric in MINIMISED_METRICS
    scale, back = (_log, _exp) if loss else (_logit, _expit)
    spread = scale(own)
    shifts = width * np.quantile(spread - spread.mean(), [0.025, 0.975])
    low, high = back(scale(np.array([value])) + shifts)
    return float(low), float(high)


def _log(values: Array) -> Array:
    result: Array = np.log(np.maximum(values, 1e-6))
    return result


def _exp(values: Array) -> Array:
    result: Array = np.exp(values)
    return result


def _logit(values: Array) -> Array:
    inside = np.clip(values, 1e-6, 1 - 1e-6)
    result: Array = np.log(inside / (1 - inside))
    return result


def _expit(values: Array) -> Array:
    result: Array = 1 / (1 + np.exp(-values))
    return result
