"""The study as one page that opens anywhere, without a network."""

import html
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from busi_search.release import charts
from busi_search.release.gallery import gallery_section
from busi_search.release.importance import (
    NO_IMPORTANCES,
    importance_figure,
    parameter_importances,
    slice_figure,
)
from busi_search.release.known_systems import known_systems_section
from busi_search.release.model_card import Card
from busi_search.release.selection import Estimate, pareto_front
from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult, gather_out_of_fold
from busi_search.search.records import cv_metrics, main_value, stored_folds, trial_hyperparameters
from busi_search.training.metrics import softmax

PHANTOM_WARNING = "Simulated phantoms: these scores mean nothing for patients."
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1a1a1a; }
table { border-collapse: collapse; font-size: .9rem; display: block; overflow-x: auto; }
th, td { text-align: left; padding: .25rem .75rem; border-bottom: 1px solid #ddd; }
.warning { background: #fff3cd; border-left: .4rem solid #e69f00; padding: .6rem 1rem; }
h2 { margin-top: 2.5rem; }
.strip { display: flex; flex-wrap: wrap; gap: .8rem; } .strip figure { margin: 0; width: 8rem; }
.strip img { width: 100%; } figcaption { font-size: .75rem; overflow-wrap: anywhere; }
dt { font-weight: 600; margin-top: .8rem; } dd { margin-left: 0; overflow-wrap: anywhere; }
"""


def render_report(
    context: StudyContext,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    estimates: Mapping[str, Estimate],
    card: Card,
) -> str:
    """Return a self-contained HTML page about a finished search.

    Args:
        context: the study.
        trials: all its trials.
        best: the winner.
        estimates: its figures, corrected for having been chosen.
        card: the items of the model card.
    """
    folds = stored_folds(best, len(context.partition.folds))
    results = [folds[index] for index in sorted(folds)]
    development = context.development
    figures = report_figures(context, trials, best)
    parts = [
        f"<h1>{html.escape(context.name)}</h1>",
        f'<p class="warning">{PHANTOM_WARNING}</p>' if development.simulated else "",
        _summary(context, trials, best, results, estimates),
        "<h2>The winner, as found and corrected</h2>",
        _corrected(estimates),
        "<h2>Best trials</h2>",
        _leaderboard(context, trials),
        known_systems_section(context, trials, best),
        "<h2>Figures</h2>",
        *(
            figure.to_html(full_html=False, include_plotlyjs=index == 0)
            for index, figure in enumerate(figures.values())
        ),
        "" if "importances" in figures else f"<p>{NO_IMPORTANCES}</p>",
        gallery_section(development, _out_of_fold_probabilities(context, results)),
        "<h2>Near-duplicates and contradictory labels</h2>",
        _twins(context),
        "<h2>Model card</h2>",
        "<dl>",
        *(f"<dt>{html.escape(h)}</dt><dd>{html.escape(text)}</dd>" for h, text in card),
        "</dl>",
        "<h2>Study file</h2>",
        f"<pre>{html.escape(context.spec_text)}</pre>",
    ]
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(context.name)} – busi-search</title><style>{_STYLE}</style>"
    )
    body = "\n".join(parts)
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}</body></html>"


def report_figures(
    context: StudyContext, trials: Sequence[FrozenTrial], best: FrozenTrial
) -> dict[str, go.Figure]:
    """Return the figures of the page by name, in their order.

    Args: as :func:`render_report`.
    """
    folds = stored_folds(best, len(context.partition.folds))
    results = [folds[index] for index in sorted(folds)]
    section, development = context.spec.study, context.development
    arguments = (
        _out_of_fold_probabilities(context, results),
        development.labels,
        development.class_names,
    )
    figures = {"history": charts.history_figure(trials, section.objective, section.direction)}
    if section.further_objectives:
        front = pareto_front(trials, section)
        figures["pareto"] = charts.pareto_figure(trials, front, section.objectives)
    shares = parameter_importances(trials, section.direction)
    if shares:
        figures["importances"] = importance_figure(shares)
    slices = slice_figure(trials, section.objective)
    if slices is not None:
        figures["slices"] = slices
    return figures | {
        "learning_curves": charts.curves_figure([(r.val_epochs, r.val_auc) for r in results]),
        "roc": charts.roc_figure(*arguments, development.positive),
        "precision_recall": charts.precision_recall_figure(*arguments, development.positive),
        "confusion": charts.confusion_figure(*arguments),
    }


def _out_of_fold_probabilities(
    context: StudyContext, results: Sequence[FoldResult]
) -> npt.NDArray[np.float64]:
    gathered = gather_out_of_fold(results, context.partition.folds)
    return softmax(gathered.log_probabilities)


def _summary(
    context: StudyContext,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    results: Sequence[FoldResult],
    estimates: Mapping[str, Estimate],
) -> str:
    estimate = estimates[context.spec.study.metric]
    figures = cv_metrics(results)
    counts = context.counts
    count = {state: sum(t.state == state for t in trials) for state in TrialState}
    objective = context.spec.study.objective
    trained = sum(len(stored_folds(t, len(context.partition.folds))) for t in trials)
    possible = len(context.partition.folds) * (
        count[TrialState.COMPLETE] + count[TrialState.PRUNED]
    )
    return (
        f"<p>Of {count[TrialState.COMPLETE] + count[TrialState.PRUNED]} configurations "
        f"({count[TrialState.PRUNED]} given up early, which saved "
        f"{max(0, possible - trained)} of {possible} fold trainings; {count[TrialState.FAIL]} "
        f"failed), trial {best.number} is the best: {objective} "
        f"<b>{estimate.naive:.3f}</b> as found, <b>{estimate.value:.3f}</b> "
        f"(95 % interval {estimate.low:.3f} to {estimate.high:.3f}) after correction for having "
        f"been chosen among many. AUC {figures['cv_auc']:.3f} ± {figures['cv_auc_std']:.3f} over "
        f"{len(results)} folds, accuracy {figures['cv_accuracy']:.3f}, macro or malignant F1 "
        f"{figures['cv_f1']:.3f}.</p><p>Data: {html.escape(context.development.name)}, "
        f"{counts['num_images']} images in {counts['num_groups']} groups of near-duplicates, "
        f"which no fold divides; {counts['num_quarantined']} images in {counts['num_conflicts']} "
        f"groups with contradictory labels are left out; {counts['num_test']} test images are "
        f"sealed and were not used. Fingerprint {context.partition.fingerprint}.</p>"
    )


def _corrected(estimates: Mapping[str, Estimate]) -> str:
    """Each figure as the search found it, and what to expect of it on new patients."""
    rows = ["<tr><th>figure</th><th>as found</th><th>corrected</th><th>95 % interval</th></tr>"]
    rows += [
        f"<tr><td>cv_{metric}</td><td>{found.naive:.3f}</td><td>{found.value:.3f}</td>"
        f"<td>{found.low:.3f} to {found.high:.3f}</td></tr>"
        for metric, found in estimates.items()
    ]
    return f"<table>{''.join(rows)}</table>"


def _leaderboard(context: StudyContext, trials: Sequence[FrozenTrial], top: int = 10) -> str:
    sign = 1 if context.spec.study.direction == "maximize" else -1
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    ranked = sorted(complete, key=lambda t: -sign * (main_value(t) or 0.0))[:top]
    names = list(context.spec.space)
    header = ["trial", context.spec.study.objective, *names, "recipe"]
    rows = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>"]
    for trial in ranked:
        hyperparameters: Mapping[str, object] = trial_hyperparameters(trial).model_dump()
        cells = [str(trial.number), f"{main_value(trial):.4f}"]
        cells += [_short(hyperparameters[name]) for name in names]
        cells.append(str(trial.user_attrs.get("recipe", "")))
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _twins(context: StudyContext) -> str:
    """Name the development images that have near-duplicates, and how many were left out."""
    members: dict[int, list[str]] = {}
    for path, group in zip(context.development.paths, context.groups.tolist(), strict=True):
        members.setdefault(group, []).append(path)
    twins = [names for names in members.values() if len(names) > 1]
    counts = context.counts
    listed = "".join(f"<li>{html.escape(' · '.join(names))}</li>" for names in twins)
    return (
        f"<p>{len(twins)} groups of near-duplicates stand in the development part; "
        f"{counts['num_quarantined']} images in {counts['num_conflicts']} groups with "
        "contradictory labels are left out of training, folds and test. <code>busi-search data "
        "describe</code> shows them side by side; <code>busi-search leak-gap</code> measures what "
        "they would add if they were torn apart.</p>"
        f"<details><summary>The groups</summary><ul>{listed}</ul></details>"
    )


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)
