"""The study as one page that opens anywhere, without a network."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from markupsafe import Markup
from optuna.trial import TrialState

from busi_search.data.known_images import KnownImages
from busi_search.release.descriptions import PHANTOM_WARNING, shown_estimates
from busi_search.release.local_data import NUM_DRAWS
from busi_search.release.selection import Estimate
from busi_search.release.sites import unseen_sites
from busi_search.release.winner import Winner
from busi_search.report.curve_charts import growth_chart
from busi_search.report.elsewhere import (
    FIGURE_NAMES,
    Row,
    forest_chart,
    judged_places,
)
from busi_search.report.flow import make_flow
from busi_search.report.gallery import find_twins, make_gallery
from busi_search.report.importance import NO_IMPORTANCES
from busi_search.report.in_words import precision_sentence
from busi_search.report.known_systems import known_systems
from busi_search.report.model_card import Card
from busi_search.report.rendering import plot_html, plotly_library, render
from busi_search.report.study_charts import (
    CAPTIONS,
    WIDE,
    performance_charts,
    search_charts_of,
)
from busi_search.report.summary import summarise
from busi_search.search.seal_register import num_openings_of
from busi_search.search.store.fold_records import folds_begun
from busi_search.search.store.foreign import foreign_sentence
from busi_search.search.store.records import (
    is_finished,
    main_value,
    recipe_name,
    trial_hyperparameters,
)
from busi_search.search.store.study_parts import LearningCurve
from busi_search.spec import MINIMISED_METRICS
from busi_search.study_files import about_study

LEADERBOARD_ROWS = 10


@dataclass(frozen=True)
class _Chart:
    """A chart as it stands on the page.

    Attributes:
        title, caption: around it.
        plot: HTML.
        wide: scrolled on a phone.
        note: said below it, or None.
    """

    title: str
    caption: str
    plot: Markup
    wide: bool
    note: str | None


def render_report(
    winner: Winner,
    card: Card,
    *,
    ledger: Sequence[Row],
    maps: Mapping[int, npt.NDArray[np.uint8]],
    growth: LearningCurve | None,
    version: str | None,
    versions: Mapping[str, str],
) -> str:
    """Return a self-contained HTML page about a finished search.

    Args:
        winner: the study's winner, among all its trials.
        card: the items of the model card.
        ledger: the entries of the sealed test's ledger.
        maps: where the winner looked, (H, W) from 0 to 255, for images by index, where known.
        growth: how its score grows with images, if that was measured.
        version: that the winner is registered as, or None.
        versions: what the study ran on, by name.
    """
    context = winner.context
    about = about_study(context.spec_text)
    places = judged_places(winner, ledger, version)
    openings = num_openings_of(KnownImages(context.home), context.membership, context.home)
    header, leaderboard = _leaderboard(winner)
    forest = forest_chart(places)
    return render(
        "study_page.html",
        name=context.name,
        version=version,
        heading=about.title.strip() or context.name,
        made=_now(),
        library=plotly_library(),
        simulated=context.development.simulated,
        phantom_warning=PHANTOM_WARNING,
        summary=summarise(winner, about, places, openings=openings),
        flow=make_flow(winner, places),
        remarks=context.remarks,
        winner=winner,
        foreign=foreign_sentence(winner.foreign),
        objective=context.spec.study.objective,
        estimates=shown_estimates(winner.estimates, context.spec.study.metric),
        better_than_found=_better_than_found(winner.estimates, context.spec.study.metric),
        **_counts(winner),
        dataset_name=context.development.name,
        grouping=context.partition.grouping,
        fingerprint=context.partition.fingerprint,
        partition=context.partition.digest(),
        leaderboard_header=header,
        leaderboard=leaderboard,
        systems=known_systems(winner),
        performance=_charts(performance_charts(winner, places)),
        searched=_charts(search_charts_of(winner)),
        growth=_charts({} if growth is None else {"growth": growth_chart(growth)}),
        precision=precision_sentence(winner),
        positive_class=context.development.class_names[context.development.positive],
        places=places,
        place_columns=FIGURE_NAMES,
        unseen_sites=unseen_sites(winner),
        num_draws=NUM_DRAWS,
        forest=None if forest is None else plot_html(_untitled(forest)),
        gallery=make_gallery(winner, maps),
        twins=find_twins(
            context.development,
            context.partition.grouping.twins[context.partition.development],
            num_quarantined=context.counts["num_quarantined"],
        ),
        card=card,
        search_line=_search_line(winner, sum(map(is_finished, winner.trials))),
        replay_line=shlex.join(["busi-search", "replay", context.name, str(winner.number)]),
        versions=versions,
        study_file=context.spec_text,
        about=_about(context.spec_text),
    )


def _now() -> str:
    now = datetime.now().astimezone()
    return f"{now.day} {now:%B %Y, %H:%M %Z}"


def _counts(winner: Winner) -> dict[str, int]:
    """Trials by how they ended, and the folds that stopping early saved."""
    num_folds = len(winner.context.partition.folds)
    finished = sum(map(is_finished, winner.trials))
    trained = sum(folds_begun(trial, num_folds) for trial in winner.trials)
    return {
        "num_finished": finished,
        "num_pruned": sum(trial.state == TrialState.PRUNED for trial in winner.trials),
        "num_failed": sum(trial.state == TrialState.FAIL for trial in winner.trials),
        "num_folds_possible": num_folds * finished,
        "num_folds_saved": max(0, num_folds * finished - trained),
    }


def _better_than_found(estimates: Mapping[str, Estimate], metric: str) -> list[str]:
    """Return which figures the correction made better, by the names that people are shown."""
    better = []
    for name, key in zip(
        shown_estimates(estimates, metric), _order(estimates, metric), strict=True
    ):
        found = estimates[key]
        sign = -1 if key.removeprefix("calibrated_") in MINIMISED_METRICS else 1
        if round(sign * (found.value - found.naive), 3) > 0:
            better.append(name)
    return better


def _order(estimates: Mapping[str, Estimate], metric: str) -> list[str]:
    return [metric, *(name for name in estimates if name not in (metric, "ece"))]


def _about(spec_text: str) -> dict[str, str]:
    """What the researcher says of the study, by the words for it."""
    written = about_study(spec_text).model_dump()
    return {key.replace("_", " "): text for key, text in written.items() if text.strip()}


def _untitled(chart: go.Figure) -> go.Figure:
    """The heading above a chart says its title, and wraps on a phone."""
    return go.Figure(chart).update_layout(title=None)


def _charts(found: Mapping[str, go.Figure]) -> list[_Chart]:
    return [
        _Chart(
            title=chart.layout.title.text,
            caption=CAPTIONS[name],
            plot=plot_html(_untitled(chart)),
            wide=name in WIDE,
            note=NO_IMPORTANCES if name == "savings" and "importances" not in found else None,
        )
        for name, chart in found.items()
    ]


def _search_line(winner: Winner, num_finished: int) -> str:
    """The line that searches again from the beginning."""
    context = winner.context
    words = ["busi-search", "run", context.origin, "--name", context.name]
    words += ["--trials", str(num_finished)]
    for override in re.findall(r"^# --set (.*)$", context.spec_text, flags=re.MULTILINE):
        words += ["--set", override]
    return shlex.join(words)


def _leaderboard(winner: Winner) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the best trials, with what varied among the complete ones."""
    section = winner.context.spec.study
    sign = 1 if section.direction == "maximize" else -1
    complete = [t for t in winner.trials if t.state == TrialState.COMPLETE]
    settings = {t.number: trial_hyperparameters(t).model_dump() for t in complete}
    names = [
        name
        for name in winner.context.spec.space
        if len({str(found[name]) for found in settings.values()}) > 1
    ]
    ranked = sorted(complete, key=lambda t: -sign * (main_value(t) or 0.0))[:LEADERBOARD_ROWS]
    rows = [
        [
            str(trial.number),
            f"{main_value(trial):.4f}",
            *(_short(settings[trial.number][name]) for name in names),
            recipe_name(trial) or "",
        ]
        for trial in ranked
    ]
    return ["trial", section.objective, *names, "recipe"], rows


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)
