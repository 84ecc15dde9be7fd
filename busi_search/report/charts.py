"""Plotly charts of predictions and of training; they need no network."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.metrics import confusion_matrix, roc_curve

from busi_search.release.calibration import OperatingPoint
from busi_search.search.fold_result import FoldResult

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Of lines to compare with; to be seen on white and on black.
NEUTRAL = "#888888"
_SQUARE_PIXELS = 460


def layout(chart: go.Figure, title: str, x: str, y: str) -> go.Figure:
    """Give a chart its title, the names of its axes and the look that all share."""
    chart.update_layout(
        title=title,
        xaxis_title=x,
        yaxis_title=y,
        template="simple_white",
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        height=420,
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
    )
    return chart


def square(chart: go.Figure) -> go.Figure:
    """Make both axes go from 0 to 1, a unit being as long on the one as on the other."""
    chart.update_layout(height=_SQUARE_PIXELS)
    chart.update_xaxes(range=[0, 1], constrain="domain")
    chart.update_yaxes(range=[0, 1.005], scaleanchor="x", constrain="domain")
    return chart


def class_roc_chart(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
) -> go.Figure:
    """Return the ROC curve of every class against all others, out of fold."""
    chart = go.Figure()
    for c, name in enumerate(class_names):
        false_positive, true_positive, _ = roc_curve(labels == c, probabilities[:, c])
        line = {"color": COLOURS[c % len(COLOURS)]}
        chart.add_scatter(x=false_positive, y=true_positive, name=name, line=line)
    diagonal = {"color": NEUTRAL, "dash": "dot"}
    chart.add_scatter(x=[0, 1], y=[0, 1], name="chance", line=diagonal, hoverinfo="skip")
    layout(chart, "ROC curves of every class, out of fold", "1 − specificity", "sensitivity")
    return square(chart)


def class_confusion_chart(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
) -> go.Figure:
    """Return the confusion matrix of the most probable class, in images and shares of the row."""
    table = confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=list(range(len(class_names)))
    )
    chart = shares_of_rows(table, class_names, class_names)
    return layout(chart, "Most probable class, out of fold", "predicted", "truth")


def shares_of_rows(
    table: npt.NDArray[np.integer], columns: Sequence[str], rows: Sequence[str]
) -> go.Figure:
    """Return a table of counts, each with its share of the row.

    Args:
        table: (R, C) counts.
        columns: C names.
        rows: R names, from the top.
    """
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    text = [
        [f"{number} ({100 * share:.0f} %)" for number, share in zip(row, parts, strict=True)]
        for row, parts in zip(table, shares, strict=True)
    ]
    chart = go.Figure(
        go.Heatmap(
            z=shares,
            x=list(columns),
            y=list(rows),
            text=text,
            texttemplate="%{text}",
            colorscale="Blues",
            zmin=0,
            zmax=1,
            showscale=False,
        )
    )
    return chart.update_yaxes(autorange="reversed")


def learning_curves_chart(results: Sequence[FoldResult]) -> go.Figure:
    """Return training loss and validation AUC over epochs, a line per fold."""
    chart = make_subplots(rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.08)
    for result in results:
        line = {"color": COLOURS[result.fold % len(COLOURS)]}
        shared = {"name": f"fold {result.fold}", "line": line, "legendgroup": result.fold}
        epochs = list(range(1, len(result.train_loss) + 1))
        chart.add_scatter(x=epochs, y=list(result.train_loss), **shared, row=1, col=1)
        known = {"x": list(result.val_epochs), "y": list(result.val_auc)}
        chart.add_scatter(**known, **shared, showlegend=False, row=2, col=1)
    layout(chart, "Training of the best trial, epoch by epoch", "", "training loss")
    chart.update_layout(height=560)
    chart.update_xaxes(title_text="epoch", row=2, col=1)
    chart.update_yaxes(title_text="validation AUC", row=2, col=1)
    return chart


def operating_chart(
    scores: npt.NDArray[np.floating],
    truth: npt.NDArray[np.bool_],
    point: OperatingPoint,
    class_name: str,
) -> go.Figure:
    """Return sensitivity and specificity over the threshold, the operating point marked.

    Args:
        scores: (N,) calibrated out-of-fold probability of the positive class.
        truth: (N,) whether an image is of it.
        point: what was chosen.
        class_name: of the positive class.
    """
    thresholds = np.unique(np.concatenate([[0.0], scores, [1.0]]))
    ranked = [np.sort(scores[kind]) for kind in (truth, ~truth)]
    below = [np.searchsorted(rows, thresholds) / len(rows) for rows in ranked]
    chart = go.Figure()
    for name, shares, colour in (
        ("sensitivity", 1 - below[0], COLOURS[1]),
        ("specificity", below[1], COLOURS[0]),
    ):
        line = {"color": colour, "shape": "vh"}
        chart.add_scatter(x=thresholds, y=shares, name=name, mode="lines", line=line)
    chart.add_scatter(
        x=[point.threshold] * 2,
        y=[point.sensitivity, point.specificity],
        mode="markers",
        name="operating point",
        marker={"color": NEUTRAL, "size": 9},
    )
    chart.add_vline(x=point.threshold, line={"color": NEUTRAL, "dash": "dot"})
    chart.update_yaxes(range=[0, 1.03])
    title = f"Sensitivity and specificity over the threshold for {class_name}"
    return layout(chart, title, f"threshold on the probability of {class_name}", "share of images")
