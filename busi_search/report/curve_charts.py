"""How well the model does, drawn: its own test beside cross-validation and other hospitals."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from busi_search.release.curves import NUM_BARS, Curves
from busi_search.report.charts import COLOURS, NEUTRAL, layout, shares_of_rows, square
from busi_search.report.elsewhere import Place, leading
from busi_search.search.store.study_parts import LearningCurve

# A band around a line, of the line's own colour.
_BAND_OPACITY = 0.18


def drawn_places(places: Sequence[Place]) -> list[tuple[Place, Curves, str]]:
    """Return the places with curves, and the colour that each has in every chart."""
    return [
        (place, place.curves, COLOURS[number % len(COLOURS)])
        for number, place in enumerate(places)
        if place.curves is not None
    ]


def roc_chart(places: Sequence[Place], class_name: str) -> go.Figure:
    """Return the ROC curve of the positive class for every place, the operating point marked."""
    chart = go.Figure()
    for place, curves, colour in drawn_places(places):
        x, y = zip(*curves.roc, strict=True)
        chart.add_scatter(x=x, y=y, name=place.title, line={"color": colour})
        if place.figures.get("sensitivity") is None or place.figures.get("specificity") is None:
            continue
        chart.add_scatter(
            x=[1 - place.figures["specificity"]],
            y=[place.figures["sensitivity"]],
            mode="markers",
            marker={"color": colour, "size": 10, "symbol": "diamond"},
            name=f"operating point, {place.title}",
            showlegend=False,
        )
    chance = {"color": NEUTRAL, "dash": "dot"}
    chart.add_scatter(x=[0, 1], y=[0, 1], name="chance", line=chance, hoverinfo="skip")
    layout(chart, f"ROC curve of {class_name}", "1 − specificity", "sensitivity")
    return square(chart)


def precision_recall_chart(places: Sequence[Place], class_name: str) -> go.Figure:
    """Return the precision–recall curve of the positive class for every place."""
    chart = go.Figure()
    for place, curves, colour in drawn_places(places):
        x, y = zip(*curves.precision_recall, strict=True)
        line = {"color": colour, "shape": "hv"}
        chart.add_scatter(x=x, y=y, name=place.title, line=line)
        share = place.figures["num_positive"] / place.figures["num_images"]
        chart.add_scatter(
            x=[0, 1],
            y=[share, share],
            mode="lines",
            line={"color": colour, "dash": "dot", "width": 1},
            name=f"share of {class_name}, {place.title}",
            showlegend=False,
        )
    layout(chart, f"Precision and recall of {class_name}", "recall", "precision")
    return square(chart)


def calibration_chart(places: Sequence[Place], class_name: str) -> go.Figure:
    """Return observed over predicted shares, above a histogram of the leading place's images."""
    chart = make_subplots(
        rows=2, cols=1, shared_xaxes=True, row_heights=[0.75, 0.25], vertical_spacing=0.06
    )
    diagonal = {"color": NEUTRAL, "dash": "dot"}
    chart.add_scatter(
        x=[0, 1], y=[0, 1], name="as predicted", line=diagonal, hoverinfo="skip", row=1, col=1
    )
    lead = leading(places)
    for place, curves, colour in drawn_places(places):
        observed = np.array([found["observed"] for found in curves.calibration])
        chart.add_scatter(
            x=[found["predicted"] for found in curves.calibration],
            y=observed,
            error_y={
                "array": np.array([found["high"] for found in curves.calibration]) - observed,
                "arrayminus": observed - np.array([found["low"] for found in curves.calibration]),
                "thickness": 1,
            },
            text=[f"{found['num_images']} images" for found in curves.calibration],
            mode="lines+markers",
            name=place.title,
            line={"color": colour},
            row=1,
            col=1,
        )
        if place is lead:
            _add_histogram(chart, curves, class_name)
    layout(chart, f"Calibration of the probability of {class_name}", "", f"share {class_name}")
    chart.update_layout(height=560, barmode="stack", bargap=0.05)
    chart.update_xaxes(range=[-0.02, 1.02])
    chart.update_yaxes(range=[-0.03, 1.03], row=1, col=1)
    chart.update_xaxes(title_text=f"predicted probability of {class_name}", row=2, col=1)
    chart.update_yaxes(title_text="images", row=2, col=1)
    return chart


def _add_histogram(chart: go.Figure, curves: Curves, class_name: str) -> None:
    middles = (np.arange(NUM_BARS) + 0.5) / NUM_BARS
    for kind, (name, colour) in enumerate(
        ((class_name, COLOURS[3]), (f"not {class_name}", COLOURS[5]))
    ):
        numbers = [bar[kind] for bar in curves.histogram]
        chart.add_bar(
            x=middles, y=numbers, name=name, marker={"color": colour, "line_width": 0}, row=2, col=1
        )


def decision_chart(places: Sequence[Place], class_name: str) -> go.Figure:
    """Return net benefit over the threshold, with a band of 95 % for the leading place."""
    chart = go.Figure()
    lead = leading(places)
    for place, curves, colour in drawn_places(places):
        thresholds = [row["threshold"] for row in curves.decision]
        benefit = [row["model"] for row in curves.decision]
        if place is lead:
            _add_band(chart, curves, colour)
            chart.add_scatter(
                x=thresholds,
                y=[row["treat_all"] for row in curves.decision],
                mode="lines",
                name="act on everyone",
                line={"color": NEUTRAL, "dash": "dash"},
            )
        chart.add_scatter(
            x=thresholds, y=benefit, mode="lines", name=place.title, line={"color": colour}
        )
    nobody = {"color": NEUTRAL, "dash": "dot"}
    chart.add_scatter(x=[0, 0.6], y=[0, 0], mode="lines", name="act on nobody", line=nobody)
    most = max(
        max(row["model"] for row in curves.decision) for _, curves, _ in drawn_places(places)
    )
    chart.update_yaxes(range=[-0.05, 1.15 * most + 0.02])
    chart.update_xaxes(range=[0, 0.6])
    words = (f"threshold: act from this probability of {class_name} on", "net benefit")
    return layout(chart, "Decision curve", *words)


def _add_band(chart: go.Figure, curves: Curves, colour: str) -> None:
    known = [row for row in curves.decision if None not in row["model_ci95"]]
    x = [row["threshold"] for row in known]
    low, high = ([row["model_ci95"][end] for row in known] for end in (0, 1))
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    chart.add_scatter(
        x=[*x, *reversed(x)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},{_BAND_OPACITY})",
        line={"width": 0},
        mode="lines",
        name="95 % interval",
        hoverinfo="skip",
    )


def confusion_chart(place: Place, class_name: str) -> go.Figure | None:
    """Return what was called at the operating point, by true class; None without curves.

    Args:
        place: whose images.
        class_name: of the positive class.
    """
    if place.curves is None:
        return None
    called = place.curves.called
    counts = np.array([list(pair) for pair in called.values()], dtype=np.int64)
    chart = shares_of_rows(
        counts, [f"called {class_name}", f"not called {class_name}"], list(called)
    )
    chart.update_yaxes(automargin=True)
    layout(chart, f"Calls at the operating point: {place.title}", "", "truth")
    return chart.update_layout(height=140 + 70 * len(called))


def growth_chart(curve: LearningCurve) -> go.Figure:
    """Return the winner's score over the number of images that each fold learns from."""
    points = curve.points
    scores = np.array([point.score for point in points])
    chart = go.Figure()
    chart.add_scatter(
        x=[point.num_images for point in points],
        y=scores,
        error_y={
            "array": np.array([point.high for point in points]) - scores,
            "arrayminus": scores - np.array([point.low for point in points]),
            "thickness": 1,
        },
        text=[f"{100 * point.share:.0f} % of the groups" for point in points],
        mode="lines+markers",
        name=f"cv_{curve.metric}",
        line={"color": COLOURS[0]},
    )
    chart.update_xaxes(type="log", tickvals=[point.num_images for point in points])
    title = "Score over the number of images to learn from"
    return layout(chart, title, "images that each fold learns from", f"cv_{curve.metric}")


def by_name(places: Sequence[Place], class_name: str) -> Mapping[str, go.Figure]:
    """Return the charts of this module that are about ``places``, by name, in their order."""
    if not drawn_places(places):
        return {}
    found = {
        "roc": roc_chart(places, class_name),
        "precision_recall": precision_recall_chart(places, class_name),
        "reliability": calibration_chart(places, class_name),
        "decision": decision_chart(places, class_name),
    }
    confusion = confusion_chart(leading(places), class_name)
    return found if confusion is None else {**found, "confusion": confusion}
