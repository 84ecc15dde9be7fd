"""Plotly figures of a study; they need no network."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState
from sklearn.metrics import confusion_matrix, precision_recall_curve, roc_curve

from busi_search.search.records import main_value

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def _layout(figure: go.Figure, title: str, x: str, y: str) -> go.Figure:
    figure.update_layout(
        title=title,
        xaxis_title=x,
        yaxis_title=y,
        template="simple_white",
        margin={"l": 60, "r": 20, "t": 50, "b": 50},
        height=420,
    )
    return figure


def _classes(class_names: Sequence[str], positive: int) -> list[int]:
    return [positive] if len(class_names) == 2 else list(range(len(class_names)))


def roc_figure(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
    positive: int,
) -> go.Figure:
    """Return the ROC curve of every class (of the positive one for two classes)."""
    figure = go.Figure()
    for index, c in enumerate(_classes(class_names, positive)):
        false_positive, true_positive, _ = roc_curve(labels == c, probabilities[:, c])
        line = {"color": COLOURS[index % len(COLOURS)]}
        figure.add_scatter(x=false_positive, y=true_positive, name=class_names[c], line=line)
    diagonal = {"color": "#999999", "dash": "dot"}
    figure.add_scatter(x=[0, 1], y=[0, 1], name="chance", line=diagonal, hoverinfo="skip")
    return _layout(figure, "ROC, out-of-fold predictions", "1 − specificity", "sensitivity")


def precision_recall_figure(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
    positive: int,
) -> go.Figure:
    """Return the precision–recall curve of every class (the positive one for two classes)."""
    figure = go.Figure()
    for index, c in enumerate(_classes(class_names, positive)):
        precision, recall, _ = precision_recall_curve(labels == c, probabilities[:, c])
        line = {"color": COLOURS[index % len(COLOURS)], "shape": "hv"}
        figure.add_scatter(x=recall, y=precision, name=class_names[c], line=line)
    figure.update_yaxes(range=[0, 1.02])
    return _layout(figure, "Precision and recall, out-of-fold predictions", "recall", "precision")


def confusion_figure(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    class_names: Sequence[str],
) -> go.Figure:
    """Return the confusion matrix of the most probable class, in images."""
    table = confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=list(range(len(class_names)))
    )
    figure = go.Figure(
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
    figure.update_yaxes(autorange="reversed")
    return _layout(figure, "Confusion matrix, out-of-fold, images", "predicted", "truth")


def history_figure(trials: Sequence[FrozenTrial], objective: str, direction: str) -> go.Figure:
    """Return the objective of every finished trial and the best so far."""
    figure = go.Figure()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.values]
    for name, chosen, symbol, colour in (
        ("complete", complete, "circle", COLOURS[0]),
        ("pruned (folds so far)", pruned, "x-thin-open", "#999999"),
    ):
        figure.add_scatter(
            x=[t.number for t in chosen],
            y=[main_value(t) for t in chosen],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "color": colour, "size": 8},
        )
    accumulate = np.maximum.accumulate if direction == "maximize" else np.minimum.accumulate
    if complete:
        figure.add_scatter(
            x=[t.number for t in complete],
            y=accumulate(np.asarray([main_value(t) for t in complete], dtype=float)),
            mode="lines",
            name="best so far",
            line={"color": COLOURS[1], "shape": "hv"},
        )
    return _layout(figure, "The search", "trial", objective)


def pareto_figure(
    trials: Sequence[FrozenTrial], front: Sequence[FrozenTrial], objectives: Sequence[str]
) -> go.Figure:
    """Return the first objective over the second, the Pareto front marked."""
    figure = go.Figure()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    for name, chosen, colour in (("complete", complete, "#999999"), ("front", front, COLOURS[1])):
        figure.add_scatter(
            x=[t.values[1] for t in chosen],
            y=[t.values[0] for t in chosen],
            text=[f"trial {t.number}" for t in chosen],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9},
        )
    return _layout(figure, "Pareto front", objectives[1], objectives[0])


def curves_figure(curves: Sequence[tuple[Sequence[int], Sequence[float]]]) -> go.Figure:
    """Return the validation AUC over epochs, a line per fold."""
    figure = go.Figure()
    for fold, (epochs, values) in enumerate(curves):
        line = {"color": COLOURS[fold % len(COLOURS)]}
        figure.add_scatter(x=list(epochs), y=list(values), name=f"fold {fold}", line=line)
    return _layout(figure, "Learning curves of the best trial", "epoch", "validation AUC")
