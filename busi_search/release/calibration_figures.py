"""How well the probability of the positive class agrees with what is observed.

Intercept, slope and observed/expected (Van Calster et al. 2019, 10.1186/s12916-019-1466-7), and a
calibration error without the bias of the binned one, each with a 95 % interval that knows of the
groups. The binned error is kept beside them, with what a perfectly calibrated model has.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit
from scipy.stats import norm
from sklearn.linear_model import LogisticRegression

from busi_search.release.intervals import Figure, interval_around
from busi_search.training.metrics import NUM_CALIBRATION_BINS
from busi_search.training.weighted_metrics import group_weights, weighted_metric

Array = npt.NDArray[np.float64]

CALIBRATION_FIGURES = (
    "calibration_intercept",
    "calibration_slope",
    "observed_expected",
    "calibration_error",
)
# More bins see finer detail and leave more noise; measured with 60 to 300 images.
NUM_BINS = 5
NUM_BOOTSTRAPS = 2000
NUM_SIMULATIONS = 1000
# A probability of exactly 0 or 1 has no logit.
LEAST_PROBABILITY = 1e-6
# Half the width of a 95 % interval, in standard errors.
NORMAL = float(norm.ppf(0.975))
UNKNOWN = Figure(np.nan, (np.nan, np.nan))


def calibration_figures(
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
) -> dict[str, Figure]:
    """Return the figures of ``CALIBRATION_FIGURES``, each with its 95 % interval.

    * ``calibration_intercept``: calibration in the large, 0 if probabilities are right on average;
      below 0 they are too high. The log odds that must be added to them.
    * ``calibration_slope``: of a logistic regression of the truth on the logit of the probability,
      1 at best; below 1 probabilities are too extreme.
    * ``observed_expected``: share of positives divided by the mean probability, 1 at best.
    * ``calibration_error``: :func:`calibration_error`.

    The intervals of the first three are Wald's with standard errors robust to groups (Liang and
    Zeger 1986, 10.1093/biomet/73.1.13), of observed/expected on the log scale: with 60 images they
    cover the slope more often than a bootstrap's, and are narrower. That of the error is the spread
    of a bootstrap of whole groups.

    Args:
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        groups: (N,) groups of images that are not independent.

    Returns:
        NaN where the images say nothing: one class only, or, for the slope, classes that the
        scores separate.
    """
    rows = np.clip(np.asarray(scores, dtype=np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    member = np.unique(groups, return_inverse=True)[1]
    if truth.all() or not truth.any():
        return dict.fromkeys(CALIBRATION_FIGURES, UNKNOWN)
    ratio = _wald(
        np.log(truth.mean() / rows.mean()),
        (truth / truth.mean() - rows / rows.mean()) / len(rows),
        member,
    )
    low, high = np.exp(ratio.ci95)
    return {
        "calibration_intercept": _intercept(rows, truth, member),
        "calibration_slope": _slope(rows, truth, member),
        "observed_expected": Figure(float(np.exp(ratio.value)), (float(low), float(high))),
        "calibration_error": _error(rows, truth, member),
    }


def calibration_error(
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
) -> float:
    """Return the root mean square distance of probability and frequency, without the noise's part.

    The probabilities are cut at their quintiles. In a bin the product of the residuals (truth minus
    probability) of two images of different groups has the squared error as its mean, so that
    products replace squares: a perfectly calibrated model has 0 on average at any number of images.

    Args:
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        groups: (N,) images of one group are never paired.

    Returns:
        Within [-1, 1]. Below 0 (minus the root of a negative square) bins agree better than chance
        alone lets a perfectly calibrated model agree. NaN if no bin has two groups.

    Source: Kumar et al. 2019, "Verified uncertainty calibration", the debiased estimator, as a sum
    over pairs; Ferro and Fricker 2012, 10.1002/qj.1924.
    """
    rows = np.asarray(scores, dtype=np.float64)
    return _root(_squared_errors(rows, truth, groups, np.ones((1, len(rows))))[0])


def binned_error_if_calibrated(
    confidence: npt.NDArray[np.floating], groups: npt.NDArray[np.integer] | None = None
) -> float:
    """Return the binned error (``ece``) that a perfectly calibrated model has on average.

    Args:
        confidence: (N,) probability of the most probable class.
        groups: (N,) images that are right or wrong together; None for independent images.
    """
    rows = np.asarray(confidence, dtype=np.float64)
    member = np.arange(len(rows)) if groups is None else np.unique(groups, return_inverse=True)[1]
    drawn = np.random.default_rng(0).random((NUM_SIMULATIONS, int(member.max()) + 1))
    right = drawn[:, member] < rows
    bins = np.clip(np.ceil(rows * NUM_CALIBRATION_BINS).astype(int) - 1, 0, None)
    sums = (right - rows) @ np.eye(NUM_CALIBRATION_BINS)[bins]
    return float(np.abs(sums).sum(axis=1).mean() / len(rows))


def binned_error(
    probabilities: Array, labels: npt.NDArray[np.integer], weights: Array, *, value: float
) -> Figure:
    """Return the binned error with an interval that contains it.

    Args:
        probabilities: (N, C).
        labels: (N,) integers.
        weights: (B, N) of each resample.
        value: of the images as they are.
    """
    low, high = interval_around(value, weighted_metric("ece", probabilities, labels, weights))
    return Figure(value, (max(0.0, low), min(1.0, high)))


def calibration_curve(
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
) -> list[dict[str, float]]:
    """Return the share of positives over the predicted probability, by fifths of the images.

    Args:
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        groups: (N,) groups of images that are not independent.

    Returns:
        Of each bin ``num_images``, ``predicted`` (mean probability), ``observed`` (share), and
        ``low`` and ``high``, Wilson's 95 % interval of the share with as many independent images
        as there are groups.
    """
    rows = np.asarray(scores, dtype=np.float64)
    bins, curve = _quantile_bins(rows), []
    for inside in (bins == index for index in np.unique(bins)):
        share = float(truth[inside].mean())
        low, high = _wilson(share, len(np.unique(groups[inside])))
        curve.append(
            {
                "num_images": int(inside.sum()),
                "predicted": float(rows[inside].mean()),
                "observed": share,
                "low": low,
                "high": high,
            }
        )
    return curve


def beyond_calibration_limit(figures: Mapping[str, float], limit: float) -> str | None:
    """Return why a model is not calibrated well enough on the sealed test; None if it is.

    Args:
        figures: of the sealed test, by name. Of versions that were evaluated before there was a
            ``calibration_error`` the binned one counts.
        limit: the largest ``calibration_error``.
    """
    error = figures.get("calibration_error", figures["ece"])
    if not error > limit:
        return None
    digits = 3
    while digits < 9 and f"{error:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    sentence = f"calibration error {error:.{digits}f} is above {limit:.{digits}f} (max_ece"
    if "calibration_error_low" not in figures:
        return f"{sentence}; of bins, which grows with noise)"
    low, high = figures["calibration_error_low"], figures["calibration_error_high"]
    return f"{sentence}; 95 % interval {low:.3f} to {high:.3f} on this number of images)"


def _wald(value: float, influence: Array, member: npt.NDArray[np.integer]) -> Figure:
    """Return a figure with Wald's interval, from the (N,) influence of each image on it."""
    of_groups = np.bincount(member, weights=influence)
    number = len(of_groups)
    error = np.sqrt(np.sum(of_groups**2) * number / max(1, number - 1))
    return Figure(float(value), (float(value - NORMAL * error), float(value + NORMAL * error)))


def _intercept(
    scores: Array, truth: npt.NDArray[np.bool_], member: npt.NDArray[np.integer]
) -> Figure:
    x = logit(scores)

    def too_low(shift: float) -> float:
        return float(np.sum(truth - expit(x + shift)))

    shift = float(brentq(too_low, -40, 40))
    fitted = expit(x + shift)
    return _wald(shift, (truth - fitted) / np.sum(fitted * (1 - fitted)), member)


def _slope(scores: Array, truth: npt.NDArray[np.bool_], member: npt.NDArray[np.integer]) -> Figure:
    inside, outside = scores[truth], scores[~truth]
    # Separated classes have an infinite slope; equal scores have none.
    if inside.min() >= outside.max() or inside.max() <= outside.min():
        return UNKNOWN
    x = logit(scores)
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    model.fit(x[:, None], truth)
    slope = float(model.coef_[0, 0])
    fitted = expit(model.intercept_[0] + slope * x)
    design = np.stack([np.ones_like(x), x], axis=1)
    bread = np.linalg.inv(design.T @ (design * (fitted * (1 - fitted))[:, None]))
    influence = (design * (truth - fitted)[:, None]) @ bread[:, 1]
    return _wald(slope, influence, member)


def _error(scores: Array, truth: npt.NDArray[np.bool_], member: npt.NDArray[np.integer]) -> Figure:
    chance = np.random.default_rng(0)
    drawn = group_weights(member, num_bootstraps=NUM_BOOTSTRAPS, rng=chance)
    every = np.concatenate([np.ones((1, len(scores))), drawn])
    squares = _squared_errors(scores, truth, member, every)
    low, high = interval_around(float(squares[0]), squares[1:])
    return Figure(_root(squares[0]), (_root(low), _root(high)))


def _root(square: float) -> float:
    return float(np.sign(square) * np.sqrt(abs(square)))


def _quantile_bins(scores: Array) -> npt.NDArray[np.int64]:
    """Return the (N,) fifth of each image; equal scores share one."""
    edges = np.quantile(scores, np.arange(1, NUM_BINS) / NUM_BINS)
    bins: npt.NDArray[np.int64] = np.searchsorted(edges, scores, side="right")
    return bins


def _squared_errors(
    scores: Array,
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
    weights: Array,
) -> Array:
    """Return the (B,) mean product of two residuals of a bin, of images of different groups."""
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    drawn = weights[:, first]
    bins, shape = _quantile_bins(scores), (len(first), NUM_BINS)
    residuals, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(residuals, (member, bins), truth - scores)
    np.add.at(counts, (member, bins), 1.0)
    # Pairs of a group with itself, and with its copies in a resample, are left out.
    products = (drawn @ residuals) ** 2 - drawn**2 @ residuals**2
    inside = drawn @ counts
    pairs = inside**2 - drawn**2 @ counts**2
    known = pairs > 0
    squares = np.divide(products, pairs, where=known, out=np.zeros_like(products))
    share = np.where(known, inside, 0.0)
    total = share.sum(axis=1)
    result: Array = np.full(len(weights), np.nan)
    np.divide((share * squares).sum(axis=1), total, where=total > 0, out=result)
    return result


def _wilson(share: float, number: int) -> tuple[float, float]:
    part = NORMAL**2 / number
    middle = (share + part / 2) / (1 + part)
    width = np.sqrt(part * (share * (1 - share) + part / 4)) / (1 + part)
    return float(max(0.0, middle - width)), float(min(1.0, middle + width))
