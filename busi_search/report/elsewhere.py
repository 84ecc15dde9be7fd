"""A study's model beside itself: out of fold, on its own test, in subgroups, at other hospitals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from busi_search.release.external import FIGURES
from busi_search.release.positive_figures import positive_figures
from busi_search.release.subgroups import compute_subgroups, subgroup_levels
from busi_search.release.winner import Winner
from busi_search.report.charts import COLOURS, layout

Row = Mapping[str, Any]
COLUMNS = ("auc", "sensitivity", "specificity", "ppv", "npv",
           "calibration_intercept", "calibration_slope", "observed_expected")  # fmt: skip
_IN_FOREST = ("auc", "sensitivity", "specificity")


@dataclass(frozen=True)
class Place:
    """A set of images that the model was judged by.

    Attributes:
        title: what people call it.
        figures: of the positive class at the operating point, as JSON has them.
        subgroups: the same by subgroup, with ``by`` and ``level``.
        left_out: what was not evaluated, as a sentence; empty if nothing.
        local_data: what local images would change; see :class:`.LocalHelp`.
        wanted: sensitivity wanted of the threshold; None: not said.
    """

    title: str
    figures: Row
    subgroups: Sequence[Row]
    left_out: str = ""
    local_data: Sequence[Row] = ()
    wanted: float | None = None

    def cells(self) -> list[str]:
        """Return the figures of ``COLUMNS``, each with its interval, as people read them."""
        return [cell(self.figures, name) for name in COLUMNS]


def cell(figures: Row, name: str) -> str:
    """Return a figure with its interval; a dash for what is not known."""
    value, limits = figures.get(name), figures.get(f"{name}_ci95") or (None, None)
    if value is None:
        return "–"
    if None in limits:
        return f"{value:.3f}"
    return f"{value:.3f} ({limits[0]:.3f} to {limits[1]:.3f})"


def judged_places(winner: Winner, ledger: Sequence[Row]) -> list[Place]:
    """Return how the model does out of fold, on its own test and on images of elsewhere.

    Args:
        winner: the study's winner.
        ledger: the entries of the sealed test's ledger, which hold the figures of the others.
    """
    development, positive = winner.context.development, winner.context.development.positive
    scores, truth = winner.cross_fitted[:, positive], development.labels == positive
    groups, threshold = winner.context.groups, winner.calibration.operating_point.threshold
    own = positive_figures(scores, truth, groups, threshold=threshold, min_groups=2)
    levels = subgroup_levels(development)
    parts = compute_subgroups(levels, scores, truth, groups, threshold=threshold)
    places = [Place("development, out of fold", own.to_json(), [part.to_json() for part in parts])]
    tests = [entry for entry in ledger if entry["kind"] == "figures" and "of_positive" in entry]
    for entry in tests[-1:]:
        title = f"own sealed test, version {entry['version']}"
        places.append(Place(title, entry["of_positive"], entry.get("subgroups", [])))
    latest = {
        (entry["data"]["fingerprint"], entry["version"]): entry
        for entry in ledger
        if entry["kind"] == FIGURES
    }
    for entry in latest.values():
        places.append(
            Place(
                title=f"{entry['data']['name']}, version {entry['version']}",
                figures=entry["figures"],
                subgroups=entry["subgroups"],
                left_out=_left_out(entry),
                local_data=[row for row in entry["local_data"] if row["what"] != "as it is"],
                wanted=entry["wanted_sensitivity"],
            )
        )
    return places


def _left_out(entry: Row) -> str:
    out = entry["left_out"]
    reasons = {
        "show scans that the model was developed on": out["in_development"],
        "are in its own sealed test": out["in_own_test"],
        "have near-duplicates that are labelled otherwise": out["contradictory"],
        "are sealed by other studies": out["sealed"],
        **{f"are of the class '{name}'": number for name, number in out["by_class"].items()},
    }
    said = [f"{number} that {reason}" for reason, number in reasons.items() if number]
    return f"Left out: {', '.join(said)}." if said else ""


def forest_chart(places: Sequence[Place]) -> go.Figure | None:
    """Return AUC, sensitivity and specificity by subgroup, with intervals; None without subgroups.

    Args:
        places: as :func:`judged_places` gives them.
    """
    labels = ["all images"]
    for place in places:
        labels += [f"{part['by']}: {part['level']}" for part in place.subgroups]
    labels = list(dict.fromkeys(labels))
    if len(labels) == 1:
        return None
    chart = make_subplots(cols=3, rows=1, shared_yaxes=True, subplot_titles=_IN_FOREST)
    for number, place in enumerate(places):
        rows = {"all images": place.figures}
        rows |= {f"{part['by']}: {part['level']}": part for part in place.subgroups}
        for column, name in enumerate(_IN_FOREST, start=1):
            known = {label: row for label, row in rows.items() if row.get(name) is not None}
            values = [row[name] for row in known.values()]
            limits = [row[f"{name}_ci95"] for row in known.values()]
            chart.add_scatter(
                x=values,
                y=list(known),
                error_x={
                    "array": [
                        high - value for value, (_, high) in zip(values, limits, strict=True)
                    ],
                    "arrayminus": [v - low for v, (low, _) in zip(values, limits, strict=True)],
                    "thickness": 1,
                },
                text=[f"{row['num_images']} images" for row in known.values()],
                mode="markers",
                name=place.title,
                legendgroup=place.title,
                showlegend=column == 1,
                marker={"color": COLOURS[number % len(COLOURS)], "size": 8},
                offsetgroup=str(number),
                row=1,
                col=column,
            )
    layout(chart, "Subgroups", "", "")
    chart.update_layout(height=160 + 26 * len(labels), scattermode="group", margin={"l": 10})
    chart.update_yaxes(categoryorder="array", categoryarray=labels[::-1], automargin=True)
    chart.update_xaxes(range=[0, 1.02])
    return chart
