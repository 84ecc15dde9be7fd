"""Plotly charts of the search itself: its course, its cost, what was tried."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState
from plotly.colors import sample_colorscale

from busi_search.report.charts import COLOURS, layout
from busi_search.report.importance import comparable_trials
from busi_search.search.store.records import main_value

# Trials are drawn in so many shades, the better half of the scale being dark.
NUM_SHADES = 6


def history_chart(trials: Sequence[FrozenTrial], objective: str, direction: str) -> go.Figure:
    """Return the objective of every finished trial and the best so far."""
    chart = go.Figure()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    pruned = [t for t in trials if t.state == TrialState.PRUNED and t.values]
    for name, chosen, symbol, colour in (
        ("complete", complete, "circle", COLOURS[0]),
        ("pruned (predicted)", pruned, "x-thin-open", "#999999"),
    ):
        chart.add_scatter(
            x=[t.number for t in chosen],
            y=[main_value(t) for t in chosen],
            mode="markers",
            name=name,
            marker={"symbol": symbol, "color": colour, "size": 8},
        )
    accumulate = np.maximum.accumulate if direction == "maximize" else np.minimum.accumulate
    if complete:
        chart.add_scatter(
            x=[t.number for t in complete],
            y=accumulate(np.asarray([main_value(t) for t in complete], dtype=float)),
            mode="lines",
            name="best so far",
            line={"color": COLOURS[1], "shape": "hv"},
        )
    if len(trials) <= 20:
        chart.update_xaxes(dtick=1)
    return layout(chart, "Score of every trial", "trial", objective)


def pareto_chart(
    trials: Sequence[FrozenTrial], front: Sequence[FrozenTrial], objectives: Sequence[str]
) -> go.Figure:
    """Return the first objective over the second, the Pareto front marked."""
    chart = go.Figure()
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    for name, chosen, colour in (("complete", complete, "#999999"), ("front", front, COLOURS[1])):
        chart.add_scatter(
            x=[t.values[1] for t in chosen],
            y=[t.values[0] for t in chosen],
            text=[f"trial {t.number}" for t in chosen],
            mode="markers",
            name=name,
            marker={"color": colour, "size": 9},
        )
    return layout(chart, "Pareto front", objectives[1], objectives[0])


def savings_chart(num_trained: Mapping[int, int], num_folds: int) -> go.Figure:
    """Return how many folds of each trial were trained, and how many pruning saved.

    Args:
        num_trained: folds trained, by number of the trial.
        num_folds: of a complete trial.
    """
    chart = go.Figure()
    numbers = list(num_trained)
    saved = [num_folds - num_trained[number] for number in numbers]
    trained = list(num_trained.values())
    for name, counts, colour in (("trained", trained, COLOURS[0]), ("saved", saved, "#dddddd")):
        chart.add_bar(x=numbers, y=counts, name=name, marker_color=colour)
    chart.update_layout(barmode="stack", bargap=0.1)
    chart.update_yaxes(dtick=1)
    return layout(chart, "Folds saved by pruning", "trial", "folds")


def parallel_chart(
    trials: Sequence[FrozenTrial], objective: str, direction: str
) -> go.Figure | None:
    """Return trials as lines through their hyperparameters, dark where the score is good.

    Drawn with ordinary lines rather than Plotly's parallel coordinates, which need WebGL and are
    not printed. Hyperparameters that never varied are left out, and see ``comparable_trials``.

    Args:
        trials: of a study; those with a value are drawn.
        objective: its name; the last axis.
        direction: ``maximize`` or ``minimize``.

    Returns:
        The chart; None with fewer than two such trials or where nothing varied.
    """
    scored, names = comparable_trials(trials)
    if len(scored) < 2 or not names:
        return None
    scores = np.asarray([main_value(t) for t in scored], dtype=float)
    axes = [_axis([t.params[n] for t in scored], scored[0].distributions[n]) for n in names]
    axes.append(_scale(scores, logarithmic=False))
    names.append(objective)
    heights = np.stack([axis[0] for axis in axes], axis=1)
    order = np.argsort(scores if direction == "maximize" else -scores, kind="stable")
    chart = go.Figure()
    shades = np.arange(len(order)) * NUM_SHADES // len(order)
    for shade in range(NUM_SHADES):
        chosen = order[shades == shade]
        if len(chosen) == 0:
            continue
        (colour,) = sample_colorscale("Blues", [0.2 + 0.8 * shade / (NUM_SHADES - 1)])
        xs, ys, texts = [], [], []
        for index in chosen:
            text = f"trial {scored[index].number}: {objective} {scores[index]:.4f}"
            xs += [*range(len(names)), None]
            ys += [*heights[index], None]
            texts += [text] * (len(names) + 1)
        chart.add_scatter(
            x=xs, y=ys, text=texts, hoverinfo="text", mode="lines", opacity=0.8,
            line={"color": colour, "width": 1.5 if shade < NUM_SHADES - 1 else 2.5},
        )  # fmt: skip
    for place, (_, ticks) in enumerate(axes):
        chart.add_shape(type="line", x0=place, x1=place, y0=0, y1=1, line={"color": "#666666"})
        for height, label in ticks:
            chart.add_annotation(
                x=place, y=height, text=label, showarrow=False, xshift=4, xanchor="left",
                font={"size": 11}, bgcolor="rgba(255,255,255,0.75)",
            )  # fmt: skip
    layout(chart, "Trials through their hyperparameters", "", "")
    chart.update_layout(showlegend=False)
    chart.update_xaxes(
        tickvals=list(range(len(names))),
        ticktext=[name.replace("_", "<br>") for name in names],
        range=[-0.15, len(names) - 0.6],
        showline=False,
        tickangle=0,
    )
    chart.update_yaxes(visible=False, range=[-0.05, 1.05])
    return chart


_Axis = tuple[npt.NDArray[np.float64], list[tuple[float, str]]]


def _axis(values: Sequence[Any], distribution: Any) -> _Axis:
    """Heights in [0, 1] of the values on their axis, and the labels of the axis."""
    if all(isinstance(v, float | int) and not isinstance(v, bool) for v in values):
        numbers = np.asarray(values, dtype=float)
        return _scale(numbers, logarithmic=bool(getattr(distribution, "log", False)))
    kinds = sorted({str(v) for v in values})
    heights = np.linspace(0.1, 0.9, len(kinds))
    where = dict(zip(kinds, heights, strict=True))
    return np.asarray([where[str(v)] for v in values]), [(where[k], k) for k in kinds]


def _scale(numbers: npt.NDArray[np.float64], *, logarithmic: bool) -> _Axis:
    low, high = float(numbers.min()), float(numbers.max())
    placed = np.log(numbers) if logarithmic else numbers
    width = float(np.ptp(placed)) or 1.0
    return (placed - placed.min()) / width, [(0.0, f"{low:.3g}"), (1.0, f"{high:.3g}")]
