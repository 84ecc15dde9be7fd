"""What local images say of calibration and threshold, and what that gives on others of them."""

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from busi_search.errors import InputError
from busi_search.release.local_data import Recalibration, fit_recalibration, local_threshold
from busi_search.release.positive_figures import MIN_GROUPS

NUM_REPEATS, NUM_PARTS = 20, 5


@dataclass(frozen=True)
class Setting:
    """A calibration and an operating point."""

    recalibration: Recalibration
    threshold: float


def setting_json(setting: Setting) -> dict[str, float]:
    """Return a setting as tags, metadata and ``--json`` have it."""
    return {"threshold": setting.threshold, **asdict(setting.recalibration)}


def check_enough(
    truth: npt.NDArray[np.bool_], groups: npt.NDArray[np.integer], name: str, *, where: str
) -> None:
    """Raise an InputError where images are too few to set anything by."""
    counts = [len(np.unique(groups[kind])) for kind in (truth, ~truth)]
    if min(counts) < MIN_GROUPS:
        raise InputError(
            f"{where}: {counts[0]} {name} and {counts[1]} other groups of images; a "
            f"threshold or a calibration needs at least {MIN_GROUPS} of each. Add images."
        )


def fit_setting(
    scores: npt.NDArray[np.float64],
    truth: npt.NDArray[np.bool_],
    before: Setting,
    *,
    keep: str,
    wanted: float,
) -> Setting:
    """Return what local images say, as far as it may change.

    Args:
        scores: (N,) probability of the positive class, of the parent.
        truth: (N,) whether an image is of it.
        before: the parent's.
        keep: ``calibration``, ``threshold`` or ``nothing``.
        wanted: sensitivity of the threshold.
    """
    found = before.recalibration
    if keep != "calibration":
        found = fit_recalibration(scores, truth)
    if keep == "threshold":
        return Setting(found, before.threshold)
    own = local_threshold(found.apply(scores) if keep == "nothing" else scores, truth, wanted)
    return Setting(found, before.threshold if own is None else own)


def cross_validated(
    scores: npt.NDArray[np.float64],
    truth: npt.NDArray[np.bool_],
    groups: npt.NDArray[np.integer],
    before: Setting,
    *,
    keep: str,
    wanted: float,
) -> dict[str, float]:
    """Return the figures of a change on images that it was not fitted on.

    Groups are divided into five parts, 20 times; each part is evaluated with the fit of the others.

    Returns:
        ``sensitivity``, ``specificity`` and ``log_loss``, means over the repeats; ``share_missed``:
        of single parts with positive images, whose sensitivity is below the wanted one; and
        ``log_loss_before``.
    """
    member = np.unique(groups, return_inverse=True)[1]
    rng, total = np.random.default_rng(0), int(member.max()) + 1
    rows, missed = [], []
    for _ in range(NUM_REPEATS):
        part = rng.permutation(np.arange(total) % NUM_PARTS)[member]
        called, after = np.zeros(len(scores), dtype=bool), np.zeros(len(scores))
        for number in range(NUM_PARTS):
            inside = part == number
            fitted = fit_setting(scores[~inside], truth[~inside], before, keep=keep, wanted=wanted)
            # Probabilities that stay are compared as they are: rounding would move a threshold.
            changed = fitted.recalibration != Recalibration()
            after[inside] = (
                fitted.recalibration.apply(scores[inside]) if changed else scores[inside]
            )
            called[inside] = after[inside] >= fitted.threshold
            if truth[inside].any():
                missed.append(called[inside & truth].mean() < wanted)
        rows.append((called[truth].mean(), (~called[~truth]).mean(), _log_loss(after, truth)))
    found = np.mean(rows, axis=0)
    return {
        "sensitivity": float(found[0]),
        "specificity": float(found[1]),
        "log_loss": float(found[2]),
        "log_loss_before": _log_loss(scores, truth),
        "share_missed": float(np.mean(missed)),
    }


def _log_loss(rows: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    clipped = np.clip(rows, 1e-6, 1 - 1e-6)
    return float(-np.mean(np.log(np.where(truth, clipped, 1 - clipped))))
