"""What a page draws of a set of images, small enough to be kept with its figures."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import precision_recall_curve, roc_curve

from busi_search.release.calibration_figures import calibration_curve
from busi_search.release.positive_figures import net_benefit_rows

# A curve of more points looks the same and takes more room.
MAX_POINTS = 80
NUM_BARS = 20
# From acting on almost everyone to acting on what is as likely as not.
DRAWN_THRESHOLDS = (0.01, *(round(0.03 * step, 2) for step in range(1, 20)))

Point = tuple[float, float]


@dataclass(frozen=True)
class Curves:
    """Curves of the positive class on a set of images; JSON-ready.

    Attributes:
        roc: false-alarm rate and sensitivity, from (0, 0) to (1, 1).
        precision_recall: recall and precision, the lowest threshold first.
        calibration: see :func:`.calibration_curve`.
        histogram: numbers of positive and of other images in each of ``NUM_BARS`` equal intervals
            of the probability.
        decision: over thresholds the net benefit of the ``model``, with its interval, and of
            ``treat_all``; see :func:`.net_benefit_rows`.
        called: by true class, the numbers of images that were called positive and that were not.
    """

    roc: Sequence[Point]
    precision_recall: Sequence[Point]
    calibration: Sequence[Mapping[str, float]]
    histogram: Sequence[tuple[int, int]]
    decision: Sequence[Mapping[str, Any]]
    called: Mapping[str, tuple[int, int]]

    def to_json(self) -> dict[str, Any]:
        """Return the curves by the names of the attributes."""
        return asdict(self)

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> "Curves":
        """Return what :meth:`to_json` wrote."""
        return Curves(**found)


def drawn_curves(
    scores: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    class_names: Sequence[str],
    positive: int,
    called: npt.NDArray[np.bool_],
) -> Curves | None:
    """Return the curves of a set of images; None where it lacks positive or other images.

    Args:
        scores: (N,) probability of the positive class.
        labels: (N,) true class.
        groups: (N,) groups of images that are not independent.
        class_names: of all classes.
        positive: index of the positive one.
        called: (N,) whether an image was called positive at the operating point.
    """
    rows, truth = np.asarray(scores, dtype=np.float64), labels == positive
    if truth.all() or not truth.any():
        return None
    false_alarms, found, _ = roc_curve(truth, rows)
    precision, recall, _ = precision_recall_curve(truth, rows)
    bars = np.clip((rows * NUM_BARS).astype(int), 0, NUM_BARS - 1)
    return Curves(
        roc=_thinned(false_alarms, found),
        precision_recall=_thinned(recall, precision),
        calibration=calibration_curve(rows, truth, groups),
        histogram=[
            (int(np.sum(truth & (bars == bar))), int(np.sum(~truth & (bars == bar))))
            for bar in range(NUM_BARS)
        ],
        decision=[
            {name: row[name] for name in ("threshold", "model", "model_ci95", "treat_all")}
            for row in net_benefit_rows(rows, truth, groups, thresholds=DRAWN_THRESHOLDS)
        ],
        called={
            name: (int(np.sum(called & (labels == c))), int(np.sum(~called & (labels == c))))
            for c, name in enumerate(class_names)
            if np.any(labels == c)
        },
    )


def _thinned(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> list[Point]:
    """Keep points of a curve that lie about evenly along it, both ends among them."""
    along = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    wanted = np.linspace(0, along[-1], MAX_POINTS)
    kept = np.unique([0, len(x) - 1, *np.searchsorted(along, wanted).clip(0, len(x) - 1)])
    return [(round(float(x[i]), 4), round(float(y[i]), 4)) for i in kept]
