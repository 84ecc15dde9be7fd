"""The study as one page that opens anywhere, without a network."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from markupsafe import Markup
from optuna.trial import TrialState

from busi_search.release.descriptions import PHANTOM_WARNING, shown_estimates
from busi_search.release.local_data import NUM_DRAWS
from busi_search.release.sites import unseen_sites
from busi_search.release.winner import Winner
from busi_search.report.elsewhere import COLUMNS, forest_chart, judged_places
from busi_search.report.gallery import find_twins, make_gallery
from busi_search.report.importance import NO_IMPORTANCES
from busi_search.report.known_systems import known_systems
from busi_search.report.model_card import Card
from busi_search.report.rendering import plot_html, render
from busi_search.report.study_charts import CAPTIONS, SECTIONS, WIDE, report_charts
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.foreign import foreign_sentence
from busi_search.search.store.records import (
    folds_begun,
    is_finished,
    main_value,
    recipe_name,
    trial_hyperparameters,
)
from busi_search.study_files import about_study

LEADERBOARD_ROWS = 10


@dataclass(frozen=True)
class _Chart:
    """A chart as it stands on the page.

    Attributes:
        title, caption: around it.
        plot: HTML.
        wide: scrolled on a phone.
        begins_section: title of the section that it is the first of, or None.
        note: said below it, or None.
    """

    title: str
    caption: str
    plot: Markup
    wide: bool
    begins_section: str | None
    note: str | None


def render_report(
    winner: Winner,
    card: Card,
    *,
    maps: Mapping[int, npt.NDArray[np.uint8]],
    versions: Mapping[str, str],
) -> str:
    """Return a self-contained HTML page about a finished search.

    Args:
        winner: the study's winner, among all its trials.
        card: the items of the model card.
        maps: where the winner looked, (H, W) from 0 to 255, for images by index, where known.
        versions: what the study ran on, by name.
    """
    context, trials = winner.context, winner.trials
    num_folds = len(context.partition.folds)
    finished = [trial for trial in trials if is_finished(trial)]
    possible = num_folds * len(finished)
    trained = sum(folds_begun(trial, num_folds) for trial in trials)
    header, leaderboard = _leaderboard(winner)
    places = judged_places(winner, SealLedger(context.home, context.name).entries())
    forest = forest_chart(places)
    return render(
        "study_page.html",
        name=context.name,
        simulated=context.development.simulated,
        phantom_warning=PHANTOM_WARNING,
        winner=winner,
        foreign=foreign_sentence(winner.foreign),
        objective=context.spec.study.objective,
        estimates=shown_estimates(winner.estimates, context.spec.study.metric),
        num_finished=len(finished),
        num_pruned=sum(trial.state == TrialState.PRUNED for trial in trials),
        num_failed=sum(trial.state == TrialState.FAIL for trial in trials),
        num_folds_possible=possible,
        num_folds_saved=max(0, possible - trained),
        dataset_name=context.development.name,
        counts=context.counts,
        grouping=context.partition.grouping,
        developed_by=context.developed_by,
        fingerprint=context.partition.fingerprint,
        partition=context.partition.digest(),
        leaderboard_header=header,
        leaderboard=leaderboard,
        systems=known_systems(winner),
        charts=_charts(report_charts(winner)),
        positive_class=context.development.class_names[context.development.positive],
        places=places,
        place_columns=COLUMNS,
        unseen_sites=unseen_sites(winner),
        num_draws=NUM_DRAWS,
        forest=None if forest is None else plot_html(_untitled(forest), with_library=False),
        gallery=make_gallery(
            context.development,
            winner.probabilities,
            maps,
            context.geometry(winner.hyperparameters),
        ),
        twins=find_twins(
            context.development,
            context.partition.grouping.twins[context.partition.development],
            num_quarantined=context.counts["num_quarantined"],
        ),
        card=card,
        search_line=_search_line(winner, len(finished)),
        replay_line=shlex.join(["busi-search", "replay", context.name, str(winner.number)]),
        versions=versions,
        study_file=context.spec_text,
        about=_about(context.spec_text),
    )


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
            plot=plot_html(_untitled(chart), with_library=index == 0),
            wide=name in WIDE,
            begins_section=SECTIONS.get(name),
            note=NO_IMPORTANCES if name == "savings" and "importances" not in found else None,
        )
        for index, (name, chart) in enumerate(found.items())
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
