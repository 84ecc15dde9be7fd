"""Shares, predictive values and net benefit, with intervals that know of groups."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import expit, logit
from scipy.stats import norm, t

from busi_search.release.intervals import Figure

Array = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]
Groups = npt.NDArray[np.integer]

UNKNOWN = Figure(np.nan, (np.nan, np.nan))
NORMAL = float(norm.ppf(0.975))
# From hardly ever acting to acting only on what is as likely as not.
THRESHOLDS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)


def share(right: Truth, groups: Groups) -> Figure:
    """Return a share of images and its 95 % interval.

    The interval is Wilson's (1927, 10.1080/01621459.1927.10502953) with as many independent images
    as the images of the groups are worth: their number divided by the design effect. So a share of
    1 has an interval, too; there every group counts as one image.

    Args:
        right: (N,) whether an image counts.
        groups: (N,) groups of images that are not independent.

    Returns:
        NaN for no images.
    """
    if len(right) == 0:
        return UNKNOWN
    value = float(right.mean())
    number = effective_number(right, groups)
    part = NORMAL**2 / number
    middle = (value + part / 2) / (1 + part)
    width = np.sqrt(part * (value * (1 - value) + part / 4)) / (1 + part)
    return Figure(value, (float(max(0.0, middle - width)), float(min(1.0, middle + width))))


def effective_number(right: Truth, groups: Groups) -> float:
    """Return how many independent images N grouped ones are worth for their share; at least 1."""
    num_images, num_groups = len(right), len(np.unique(groups))
    value = right.mean()
    if value in (0, 1) or num_groups < 2:
        return float(num_groups)
    independent = value * (1 - value) / num_images
    effect = max(1.0, mean_variance(right.astype(np.float64), groups) / independent)
    return float(max(1.0, num_images / effect))


def mean_variance(values: Array, groups: Groups) -> float:
    """Return the variance of the mean of (N,) values whose groups are drawn whole; NaN for one."""
    member = np.unique(groups, return_inverse=True)[1]
    sums = np.bincount(member, weights=values - values.mean()) / len(values)
    number = len(sums)
    if number < 2:
        return float("nan")
    return float(np.sum(sums**2) * number / (number - 1))


def predictive_values(
    sensitivity: Figure, specificity: Figure, prevalence: float
) -> dict[str, Figure]:
    """Return ``ppv`` and ``npv`` where a share ``prevalence`` of the patients has the disease.

    Bayes' theorem; the interval is that of the likelihood ratio, put together from the limits of
    sensitivity and specificity (MOVER, Newcombe 2016; Zou and Donner 2008, 10.1002/sim.2866), which
    are of different images.

    Args:
        sensitivity: with its interval.
        specificity: with its interval.
        prevalence: in (0, 1).
    """
    false_alarms = Figure(1 - specificity.value, _turned(specificity.ci95))
    missed = Figure(1 - sensitivity.value, _turned(sensitivity.ci95))
    odds = logit(prevalence)
    ppv, npv = _log_ratio(sensitivity, false_alarms), _log_ratio(specificity, missed)
    return {"ppv": _probability(ppv, odds), "npv": _probability(npv, -odds)}


def _turned(limits: tuple[float, float]) -> tuple[float, float]:
    return (1 - limits[1], 1 - limits[0])


def _log_ratio(above: Figure, below: Figure) -> Figure:
    with np.errstate(divide="ignore", invalid="ignore"):
        top, bottom = np.log(above.value), np.log(below.value)
        top_low, top_high = np.log(above.ci95)
        bottom_low, bottom_high = np.log(below.ci95)
        value = top - bottom
        if not np.isfinite(value):
            # Without errors of a kind only one limit is known.
            return Figure(
                float(value), (float(top_low - bottom_high), float(top_high - bottom_low))
            )
        low = value - np.hypot(top - top_low, bottom_high - bottom)
        high = value + np.hypot(top_high - top, bottom - bottom_low)
    return Figure(float(value), (float(low), float(high)))


def _probability(log_ratio: Figure, odds: float) -> Figure:
    low, high = log_ratio.ci95
    return Figure(
        float(expit(log_ratio.value + odds)), (float(expit(low + odds)), float(expit(high + odds)))
    )


def net_benefit(
    scores: Array, truth: Truth, groups: Groups, thresholds: Sequence[float] = THRESHOLDS
) -> list[Mapping[str, float | Figure]]:
    """Return the net benefit of acting on the model over thresholds, beside all and none.

    In units of true positives per image: a false positive counts ``t / (1 - t)`` of one (Vickers
    and Elkin 2006, 10.1177/0272989X06295361). Treating nobody has 0.

    Args:
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        groups: (N,) groups of images that are not independent.
        thresholds: probabilities from which one would act.

    Returns:
        Of each threshold ``threshold``, ``model``, ``treat_all`` and ``model_minus_best``, the
        model's lead over the better of all and none, each with its interval.
    """
    rows: list[Mapping[str, float | Figure]] = []
    for threshold in thresholds:
        odds = threshold / (1 - threshold)
        everyone = np.where(truth, 1.0, -odds)
        gained = np.where(scores >= threshold, everyone, 0.0)
        other = everyone if everyone.mean() > 0 else np.zeros(len(truth))
        rows.append(
            {
                "threshold": threshold,
                "model": mean(gained, groups),
                "treat_all": mean(everyone, groups),
                "model_minus_best": mean(gained - other, groups),
            }
        )
    return rows


def mean(values: Array, groups: Groups) -> Figure:
    """Return the mean of (N,) values with Student's 95 % interval for groups drawn whole."""
    value, number = float(values.mean()), len(np.unique(groups))
    if number < 2:
        return Figure(value, (np.nan, np.nan))
    width = float(t.ppf(0.975, number - 1) * np.sqrt(mean_variance(values, groups)))
    return Figure(value, (value - width, value + width))
