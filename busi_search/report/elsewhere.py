"""A study's model beside itself: out of fold, on its own test, in subgroups, at other hospitals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from busi_search.release.curves import Curves, drawn_curves
from busi_search.release.external import FIGURES
from busi_search.release.intervals import with_intervals
from busi_search.release.positive_figures import positive_figures
from busi_search.release.subgroups import compute_subgroups, subgroup_levels
from busi_search.release.winner import Winner
from busi_search.report.charts import COLOURS, layout

Row = Mapping[str, Any]
FIGURE_NAMES = ("auc", "sensitivity", "specificity", "ppv", "npv",
           "calibration_intercept", "calibration_slope", "observed_expected")  # fmt: skip
_IN_FOREST = ("auc", "sensitivity", "specificity")
OTHER: Literal["other version"] = "other version"
Kind = Literal["development", "test", "other version", "elsewhere"]


@dataclass(frozen=True)
class Place:
    """A set of images that the model was judged by.

    Attributes:
        kind: the development images out of fold, the own sealed test (of this model, or of another
            version that the study made), or external images.
        title: what people call it.
        figures: of the positive class at the operating point, as JSON has them.
        subgroups: the same by subgroup, with ``by`` and ``level``.
        left_out: what was not evaluated, as a sentence; empty if nothing.
        local_data: what local images would change; see :class:`.LocalHelp`.
        wanted: sensitivity wanted of the threshold; None: not said.
        curves: what is drawn; None of an evaluation by an earlier version.
        data: the external images, as in the JSON; empty for the study's own.
    """

    kind: Kind
    title: str
    figures: Row
    subgroups: Sequence[Row]
    left_out: str = ""
    local_data: Sequence[Row] = ()
    wanted: float | None = None
    curves: Curves | None = None
    data: Row = field(default_factory=dict)

    def cell(self, name: str) -> str:
        """Return a figure with its interval, as people read it."""
        return cell(self.figures, name)

    @property
    def rank(self) -> int:
        """Where it stands in a table: the own test first."""
        return ("test", "development", "other version", "elsewhere").index(self.kind)

    def benefits(self) -> list[Row]:
        """Return the subgroups whose net benefit is known; none of the development images."""
        known = [part for part in self.subgroups if part.get("net_benefit")]
        return [] if self.kind == "development" else known


def cell(figures: Row, name: str) -> str:
    """Return a figure with its interval; a dash for what is not known."""
    value, limits = figures.get(name), figures.get(f"{name}_ci95") or (None, None)
    if value is None:
        return "–"
    if None in limits:
        return f"{value:.3f}"
    return f"{value:.3f} ({limits[0]:.3f} to {limits[1]:.3f})"


def judged_places(winner: Winner, ledger: Sequence[Row], version: str | None) -> list[Place]:
    """Return how the model does out of fold, on its own test and on external images.

    Args:
        winner: the study's winner.
        ledger: the entries of the sealed test's ledger, which hold the figures of the others.
        version: that the winner is registered as; None: not known, and the last one is meant.
    """
    two_classes = len(winner.context.development.class_names) == 2
    tests = {
        entry["version"]: entry
        for entry in ledger
        if entry["kind"] == "figures" and "of_positive" in entry
    }
    own = next(reversed(tests), None) if version is None else version
    return [
        _development(winner),
        *(
            _own_test(entry, two_classes=two_classes, kind="test" if number == own else OTHER)
            for number, entry in tests.items()
        ),
        *map(_elsewhere, latest_external(ledger)),
    ]


def latest_external(ledger: Sequence[Row]) -> list[Row]:
    """Return the last entry of each external dataset and version."""
    latest = {
        (entry["data"]["fingerprint"], entry["version"]): entry
        for entry in ledger
        if entry["kind"] == FIGURES
    }
    return list(latest.values())


def leading(places: Sequence[Place]) -> Place:
    """Return the place whose figures come first: the own sealed test once it was opened."""
    return next((place for place in places if place.kind == "test"), places[0])


def _development(winner: Winner) -> Place:
    """The development images, each judged without itself, and called by the others' threshold."""
    development, positive = winner.context.development, winner.context.development.positive
    scores, truth = winner.cross_fitted[:, positive], development.labels == positive
    groups, threshold = winner.context.groups, winner.calibration.operating_point.threshold
    called = winner.cross_fitted_called
    own = positive_figures(scores, truth, groups, threshold=threshold, called=called, min_groups=2)
    parts = compute_subgroups(
        subgroup_levels(development), scores, truth, groups, threshold=threshold, called=called
    )
    # With the intervals that the model card has of them.
    point = zip(("sensitivity", "specificity"), winner.cross_fitted_point, strict=True)
    return Place(
        "development",
        "development, out of fold",
        own.to_json() | with_intervals(dict(point)),
        [part.to_json() for part in parts],
        curves=drawn_curves(
            scores,
            development.labels,
            groups,
            class_names=development.class_names,
            positive=positive,
            called=called,
        ),
    )


def _own_test(entry: Row, *, two_classes: bool, kind: Kind) -> Place:
    # With the intervals that `evaluate` prints; of several classes its AUC is another figure.
    names = ["sensitivity", "specificity", *(["auc"] if two_classes else [])]
    printed = {f"{name}_ci95": entry[f"{name}_ci95"] for name in names if f"{name}_ci95" in entry}
    return Place(
        kind,
        f"own sealed test, version {entry['version']}",
        {**entry["of_positive"], **printed},
        entry.get("subgroups", []),
        curves=_curves(entry),
    )


def _elsewhere(entry: Row) -> Place:
    return Place(
        kind="elsewhere",
        title=f"{entry['data']['name']}, version {entry['version']}",
        figures=entry["figures"],
        subgroups=entry["subgroups"],
        left_out=_left_out(entry),
        local_data=[row for row in entry["local_data"] if row["what"] != "as it is"],
        wanted=entry["wanted_sensitivity"],
        curves=_curves(entry),
        data={**entry["data"], "left_out": entry["left_out"]},
    )


def _curves(entry: Row) -> Curves | None:
    return Curves.from_json(entry["curves"]) if entry.get("curves") else None


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
    chart = make_subplots(
        cols=3, rows=1, shared_yaxes=True, subplot_titles=("AUC", *_IN_FOREST[1:])
    )
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
                orientation="h",
                name=place.title,
                legendgroup=place.title,
                showlegend=column == 1,
                marker={"color": COLOURS[number % len(COLOURS)], "size": 8},
                offsetgroup=str(number),
                row=1,
                col=column,
            )
    layout(chart, "Subgroups", "", "")
    room = 26 * len(labels) * max(1.0, 0.5 * len(places))
    chart.update_layout(
        height=170 + room,
        scattermode="group",
        margin={"l": 10, "t": 40 + 20 * len(places)},
        legend={"y": 1 + 30 / room, "orientation": "v"},
    )
    chart.update_yaxes(categoryorder="array", categoryarray=labels[::-1], automargin=True)
    chart.update_xaxes(range=[0, 1.02])
    return chart
