"""ROC, confusion and calibration of one trial as pictures that MLflow previews.

Drawn as SVG from a template, in about a millisecond: matplotlib takes 200 for one.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, roc_curve

from busi_search.training.metrics import binary_auc

COLOURS = ("#1f5fa8", "#c8500a", "#2a7f3f", "#7b3fa0", "#8a6d00", "#a03050")
NUM_BINS = 10
# More points than a line of a few hundred pixels shows are left out.
MOST_POINTS = 200
WILSON = 1.96

Probabilities = npt.NDArray[np.floating]
Labels = npt.NDArray[np.integer]


@cache
def _templates() -> jinja2.Environment:
    folder = Path(__file__).parent / "templates"
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder), autoescape=True, undefined=jinja2.StrictUndefined
    )


def trial_pictures(
    probabilities: Probabilities,
    labels: Labels,
    *,
    class_names: Sequence[str],
    positive: int,
    whose: str,
) -> dict[str, str]:
    """Return SVG pictures by file name: ``roc.svg``, ``confusion.svg`` and ``calibration.svg``.

    Args:
        probabilities: (N, C) out-of-fold predictions, as trained; at least one.
        labels: (N,) integers in [0, C).
        class_names: C names.
        positive: the class that calibration is shown of; for C = 2 also the ROC curve.
        whose: for the title, such as ``trial 7``.
    """
    where = f"{len(labels)} development images, each predicted by a model that did not see it"
    return {
        "roc.svg": _roc(probabilities, labels, class_names, positive, whose, where),
        "confusion.svg": _confusion(probabilities, labels, class_names, whose, where),
        "calibration.svg": _calibration(probabilities, labels, class_names, positive, whose, where),
    }


def _roc(
    probabilities: Probabilities,
    labels: Labels,
    class_names: Sequence[str],
    positive: int,
    whose: str,
    where: str,
) -> str:
    shown = [positive] if len(class_names) == 2 else range(len(class_names))
    lines, notes = [], []
    for place, index in enumerate(shown):
        truth, scores = labels == index, probabilities[:, index]
        if truth.all() or not truth.any():
            continue
        colour = COLOURS[place % len(COLOURS)]
        false_positive, true_positive, _ = roc_curve(truth, scores)
        kept = np.linspace(0, len(false_positive) - 1, MOST_POINTS).round().astype(int)
        kept = np.unique(kept)
        points = list(zip(false_positive[kept], true_positive[kept], strict=True))
        lines.append({"points": points, "colour": colour})
        text = f"{class_names[index]}: AUC {binary_auc(scores, truth):.3f}, pooled over the folds"
        notes.append({"text": text, "colour": colour})
    return _square(
        f"ROC curve, {whose}", "1 - specificity", "sensitivity", notes, where, lines=lines
    )


def _calibration(
    probabilities: Probabilities,
    labels: Labels,
    class_names: Sequence[str],
    positive: int,
    whose: str,
    where: str,
) -> str:
    scores, truth = probabilities[:, positive].astype(np.float64), labels == positive
    order = np.argsort(scores, kind="stable")
    dots = []
    for members in np.array_split(order, NUM_BINS):
        if len(members):
            share = float(truth[members].mean())
            dots.append((float(scores[members].mean()), share, *_wilson(share, len(members))))
    name = class_names[positive]
    notes = [
        {"text": f"{NUM_BINS} bins of as many images each, 95 % intervals", "colour": "#444444"}
    ]
    return _square(
        f"Calibration as trained, {whose}",
        f"predicted probability of {name}",
        f"share that is {name}",
        notes,
        where,
        dots=dots,
    )


def _wilson(share: float, number: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, 10.2307/2276774)."""
    scale = 1 + WILSON**2 / number
    centre = share + WILSON**2 / (2 * number)
    half = WILSON * float(np.sqrt(share * (1 - share) / number + (WILSON / (2 * number)) ** 2))
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def _square(
    title: str,
    x_label: str,
    y_label: str,
    notes: Sequence[dict[str, str]],
    where: str,
    *,
    lines: Sequence[dict[str, Any]] = (),
    dots: Sequence[tuple[float, ...]] = (),
) -> str:
    return (
        _templates()
        .get_template("unit_square.svg")
        .render(
            title=title,
            x_label=x_label,
            y_label=y_label,
            notes=[*notes, *({"text": part, "colour": "#444444"} for part in where.split(", "))],
            lines=lines,
            dots=dots,
        )
    )


def _confusion(
    probabilities: Probabilities,
    labels: Labels,
    class_names: Sequence[str],
    whose: str,
    where: str,
) -> str:
    classes = list(range(len(class_names)))
    counts = confusion_matrix(labels, probabilities.argmax(axis=1), labels=classes)
    rows = [
        [{"count": int(count), "share": float(count / max(1, row.sum()))} for count in row]
        for row in counts
    ]
    return (
        _templates()
        .get_template("confusion.svg")
        .render(
            title=f"Confusion, {whose}",
            names=class_names,
            rows=rows,
            note=f"{len(labels)} development images.",
        )
    )
