"""How much some images of a new hospital would help: its own threshold, or calibration."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit, logit

Array = npt.NDArray[np.float64]
Truth = npt.NDArray[np.bool_]

WAYS = ("as it is", "threshold", "calibration")
NUM_DRAWS = 400
NUM_LOCAL = (10, 20, 50, 100, 200, 500)
LEAST_PROBABILITY = 1e-6
# Standard deviations of what is expected of intercept and slope: ten images move them a little.
_INTERCEPT_SPREAD, _SLOPE_SPREAD = 1.0, 0.3
_LEAST_SLOPE = 0.05


def local_threshold(scores: Array, truth: Truth, sensitivity: float) -> float | None:
    """Return the highest threshold that finds at least a share of the positive images.

    It lies in the middle between the last score that must be found and the next lower one, so that
    rounding moves nothing.

    Args:
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
        sensitivity: the share, in (0, 1].

    Returns:
        None where no image is positive.
    """
    positive = np.sort(scores[truth])[::-1]
    if len(positive) == 0:
        return None
    needed = int(np.ceil(sensitivity * len(positive) - 1e-9))
    last = float(positive[max(0, needed - 1)])
    below = scores[scores < last]
    return (last + float(below.max())) / 2 if len(below) else last


@dataclass(frozen=True)
class Recalibration:
    """A probability p of the positive class becomes expit(intercept + slope · logit(p))."""

    intercept: float = 0.0
    slope: float = 1.0

    def apply(self, scores: npt.NDArray[np.floating]) -> Array:
        """Return (N,) recalibrated probabilities; their order stays."""
        rows = np.clip(np.asarray(scores, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        result: Array = expit(self.intercept + self.slope * logit(rows))
        return result


def fit_recalibration(scores: npt.NDArray[np.floating], truth: Truth) -> Recalibration:
    """Return intercept and slope that fit the images best; few images move them only a little.

    Maximum a posteriori logistic regression of the truth on the logit of the probability, with
    normal priors: intercept 0 ± 1, slope 1 ± 0.3. From a few hundred images on they hardly count.
    The slope stays positive, so that the order of the images does not change.

    Args:
        scores: (N,) probability of the positive class.
        truth: (N,) whether an image is of it.
    """
    rows = np.clip(np.asarray(scores, np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    x, signs = logit(rows), np.where(truth, 1.0, -1.0)

    def cost(found: Array) -> tuple[float, Array]:
        a, b = found
        z = signs * (a + b * x)
        wrong = -signs * expit(-z)
        value = np.logaddexp(0, -z).sum()
        value += (a / _INTERCEPT_SPREAD) ** 2 / 2 + ((b - 1) / _SLOPE_SPREAD) ** 2 / 2
        slope = np.array([wrong.sum(), wrong @ x])
        slope += np.array([a / _INTERCEPT_SPREAD**2, (b - 1) / _SLOPE_SPREAD**2])
        return float(value), slope

    bounds = [(None, None), (_LEAST_SLOPE, None)]
    found = minimize(cost, np.array([0.0, 1.0]), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Recalibration(float(found[0]), float(found[1]))


@dataclass(frozen=True)
class LocalHelp:
    """What k local groups of images give, over many draws, judged on the images left out.

    Attributes:
        what: ``as it is``, ``threshold`` (re-set to the wanted sensitivity) or ``calibration``
            (intercept and slope, the threshold kept).
        num_groups: k.
        sensitivity, sensitivity_range: median over the draws, and the middle 95 % of them.
        specificity, specificity_range: likewise.
        share_missed: of the draws, with a sensitivity on the other images below the wanted one.
        log_loss: mean over the draws.
        share_worse: of the draws, with a log loss above that of the model as it is.
    """

    what: str
    num_groups: int
    sensitivity: float
    sensitivity_range: tuple[float, float]
    specificity: float
    specificity_range: tuple[float, float]
    share_missed: float
    log_loss: float
    share_worse: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``evaluate --json`` prints it."""
        return asdict(self)


def local_data_curve(
    scores: npt.NDArray[np.floating],
    truth: Truth,
    groups: npt.NDArray[np.integer],
    *,
    threshold: float,
    wanted: float,
    num_local: Sequence[int] = NUM_LOCAL,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> list[LocalHelp]:
    """Return what local images would change, for every number of them that leaves half to judge by.

    In each draw k groups are taken at random, threshold or calibration are fitted on their images
    and judged on all other images. A draw without a positive image keeps the threshold.

    Args:
        scores: (N,) probability of the positive class, of the frozen model.
        truth: (N,) whether an image is of it.
        groups: (N,) groups of images, such as patients; they are drawn whole.
        threshold: the frozen operating point.
        wanted: target sensitivity of the threshold.
        num_local: numbers k of groups.
        num_draws: for each k.
        seed: of the draws.
    """
    rows = np.asarray(scores, dtype=np.float64)
    member = np.unique(groups, return_inverse=True)[1]
    total = int(member.max()) + 1
    rng = np.random.default_rng(seed)
    result = []
    for k in (number for number in num_local if number <= total // 2):
        drawn: dict[str, list[tuple[float, ...]]] = {name: [] for name in WAYS}
        for _ in range(num_draws):
            taken = np.isin(member, rng.choice(total, size=k, replace=False))
            kind = truth[~taken]
            if kind.all() or not kind.any():
                continue
            for name, found in _judged(rows, truth, taken, threshold, wanted).items():
                drawn[name].append(found)
        result += [_summed(name, k, np.array(f), wanted) for name, f in drawn.items() if f]
    return result


def _judged(
    rows: Array, truth: Truth, taken: Truth, threshold: float, wanted: float
) -> dict[str, tuple[float, ...]]:
    """Sensitivity, specificity, log loss and its excess on the images that were not taken."""
    kind, rest = truth[~taken], rows[~taken]
    own = local_threshold(rows[taken], truth[taken], wanted)
    better = fit_recalibration(rows[taken], truth[taken]).apply(rest)
    before = _log_loss(rest, kind)

    def figures(probabilities: Array, limit: float) -> tuple[float, ...]:
        called = probabilities >= limit
        loss = _log_loss(probabilities, kind)
        return (float(called[kind].mean()), float((~called[~kind]).mean()), loss, loss - before)

    return {
        "as it is": figures(rest, threshold),
        "threshold": figures(rest, threshold if own is None else own),
        "calibration": figures(better, threshold),
    }


def _log_loss(rows: Array, truth: Truth) -> float:
    clipped = np.clip(rows, LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return float(-np.mean(np.log(np.where(truth, clipped, 1 - clipped))))


def _summed(name: str, k: int, drawn: Array, wanted: float) -> LocalHelp:
    low, middle, high = np.quantile(drawn[:, :2], [0.025, 0.5, 0.975], axis=0)
    return LocalHelp(
        what=name,
        num_groups=k,
        sensitivity=float(middle[0]),
        sensitivity_range=(float(low[0]), float(high[0])),
        specificity=float(middle[1]),
        specificity_range=(float(low[1]), float(high[1])),
        share_missed=float(np.mean(drawn[:, 0] < wanted)),
        log_loss=float(drawn[:, 2].mean()),
        share_worse=float(np.mean(drawn[:, 3] > 0)),
    )
