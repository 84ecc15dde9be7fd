"""Plotly charts of predictions and of training; they need no network."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from busi_search.release.calibration import OperatingPoint
from busi_search.search.fold_result import FoldResult

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


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


def _classes(class_names: Sequence[str], positive: int) -> list[int]:
    return [positive] if len(class_names) == 2 else list(range(len(class_names)))


def roc_chart(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
    positive: int,
) -> go.Figure:
    """Return the ROC curve of every class (of the positive one for two classes)."""
    chart = go.Figure()
    for index, c in enumerate(_classes(class_names, positive)):
        false_positive, true_positive, _ = roc_curve(labels == c, probabilities[:, c])
        line = {"color": COLOURS[index % len(COLOURS)]}
        chart.add_scatter(x=false_positive, y=true_positive, name=class_names[c], line=line)
    diagonal = {"color": "#999999", "dash": "dot"}
    chart.add_scatter(x=[0, 1], y=[0, 1], name="chance", line=diagonal, hoverinfo="skip")
    return layout(chart, "ROC, out-of-fold predictions", "1 − specificity", "sensitivity")


def precision_recall_chart(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
    positive: int,
) -> go.Figure:
    """Return the precision–recall curve of every class (the positive one for two classes)."""
    chart = go.Figure()
    for index, c in enumerate(_classes(class_names, positive)):
        precision, recall, _ = precision_recall_curve(labels == c, probabilities[:, c])
        line = {"color": COLOURS[index % len(COLOURS)], "shape": "hv"}
        chart.add_scatter(x=recall, y=precision, name=class_names[c], line=line)
    chart.update_yaxes(range=[0, 1.02])
    return layout(chart, "Precision and recall, out-of-fold predictions", "recall", "precision")


def confusion_chart(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
) -> go.Figure:
    """Return the confusion matrix of the most probable class, in images."""
    table = confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=list(range(len(class_names)))
    )
    chart = go.Figure(
        go.Heatmap(
            z=table,
            x=list(class_names),
            y=list(class_names),
            text=table,
            texttemplate="%{text}",
            colorscale="Blues",
            showscale=False,
        )
    )
    chart.update_yaxes(autorange="reversed")
    return layout(chart, "Confusion matrix, out-of-fold, images", "predicted", "truth")


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
    layout(chart, "Learning curves of the best trial", "", "training loss")
    chart.update_layout(height=560)
    chart.update_xaxes(title_text="epoch", row=2, col=1)
    chart.update_yaxes(title_text="validation AUC", row=2, col=1)
    return chart


def reliability_chart(
    curves: Mapping[str, Sequence[Mapping[str, float]]], class_name: str
) -> go.Figure:
    """Return the share of images that are of a class, over the probability a model gives it.

    Args:
        curves: by name, :func:`busi_search.release.calibration_figures.calibration_curve`.
        class_name: of the positive class.
    """
    chart = go.Figure()
    diagonal = {"color": "#999999", "dash": "dot"}
    chart.add_scatter(x=[0, 1], y=[0, 1], name="as predicted", line=diagonal, hoverinfo="skip")
    for (name, curve), colour in zip(
        curves.items(), (COLOURS[4], COLOURS[0], COLOURS[1]), strict=False
    ):
        observed = np.array([found["observed"] for found in curve])
        chart.add_scatter(
            x=[found["predicted"] for found in curve],
            y=observed,
            error_y={
                "array": np.array([found["high"] for found in curve]) - observed,
                "arrayminus": observed - np.array([found["low"] for found in curve]),
                "thickness": 1,
            },
            text=[f"{found['num_images']} images" for found in curve],
            mode="lines+markers",
            name=name,
            line={"color": colour},
        )
    chart.update_yaxes(range=[-0.03, 1.03])
    chart.update_xaxes(range=[-0.03, 1.03])
    words = (f"predicted probability of {class_name}", f"share that is {class_name}")
    return layout(chart, f"Calibration of the probability of {class_name}", *words)


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
        marker={"color": "#1a1a1a", "size": 9},
    )
    chart.add_vline(x=point.threshold, line={"color": "#1a1a1a", "dash": "dot"})
    chart.update_yaxes(range=[0, 1.03])
    title = f"Called {class_name} from which probability on"
    return layout(chart, title, f"threshold on the probability of {class_name}", "share of images")
