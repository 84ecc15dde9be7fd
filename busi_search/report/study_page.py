"""The study as one page that opens anywhere, without a network."""

import html
import re
import shlex
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
from optuna.trial import FrozenTrial, TrialState

from busi_search.release.calibration import Calibration, apply_temperature
from busi_search.release.selection import Estimate, pareto_front
from busi_search.report import charts, search_charts
from busi_search.report.gallery import gallery_section, twins_section
from busi_search.report.grad_cam import stored_maps
from busi_search.report.importance import (
    NO_IMPORTANCES,
    importance_figure,
    parameter_importances,
    slice_figure,
)
from busi_search.report.known_systems import known_systems_section
from busi_search.report.model_card import Card
from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult, gather_out_of_fold
from busi_search.search.sampler_view import with_expected_values
from busi_search.search.store.records import (
    cv_metrics,
    folds_begun,
    is_finished,
    main_value,
    num_finished,
    recipe_name,
    stored_folds,
    trial_hyperparameters,
)
from busi_search.search.store.study_record import StudyRecord
from busi_search.training.metrics import softmax

PHANTOM_WARNING = "Simulated phantoms: these scores mean nothing for patients."
# What each figure shows and in which unit, by its name; wide ones are scrolled on a phone.
CAPTIONS = {
    "history": "Every finished trial: its score (no unit), in the order of the trials. A cross is "
    "a trial that was given up; its score is the one to be expected of it from what it had shown.",
    "savings": "Folds trained (blue) and spared (grey) of each finished trial. A fold is one "
    "training of a model.",
    "pareto": "Complete trials by two objectives; no trial is better in both than one on the "
    "front.",
    "parallel": "A line is a trial; the darker, the better its score (of one given up: the one to "
    "be expected), which stands on the last axis. Lowest and highest value of each hyperparameter "
    "stand at its axis. Known systems with settings outside of the space are not drawn.",
    "importances": "Share of the variance of the score (0 to 1) that a hyperparameter explains, "
    "trials given up at the score to be expected of them: what mattered in this search, not what "
    "matters in general.",
    "slices": "The score over one hyperparameter each, on the scale it was drawn from. Grey: "
    "trials given up, at the score to be expected of them.",
    "learning_curves": "Training loss (nats per image) and AUC on the held-out fold (0 to 1) over "
    "epochs. No epoch is chosen by it; where predictions are averaged over several "
    "views of an image, only its last point is.",
    "roc": "Sensitivity over the share of false alarms as the threshold falls, all folds pooled. "
    "Every image is judged by a model that saw neither it nor a near-duplicate.",
    "precision_recall": "Of the images called positive, which share is (precision), over the share "
    "of positives found (recall), all folds pooled. Chance is the share of the class.",
    "reliability": "Where the line lies below the diagonal, the model is surer than it is right. "
    "The larger a point, the more images. The temperature was fitted on these predictions.",
    "operating": "How many positives are found (sensitivity) and how many others are spared "
    "(specificity), over the threshold. The operating point was chosen on these images, so expect "
    "a little less.",
    "confusion": "Number of images by true class (rows) and most probable class (columns).",
}
WIDE = frozenset({"parallel", "slices"})
_SECTIONS = {"The search": "history", "The winner's training and predictions": "learning_curves"}


def render_report(
    context: StudyContext,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    estimates: Mapping[str, Estimate],
    calibration: Calibration,
    card: Card,
    record: StudyRecord,
) -> str:
    """Return a self-contained HTML page about a finished search.

    Args:
        context: the study.
        trials: all its trials.
        best: the winner.
        estimates: its figures, corrected for having been chosen.
        calibration: its temperature and operating point.
        card: the items of the model card.
        record: of the study: what it ran on, and maps of the images to look at.
    """
    folds = stored_folds(best, len(context.partition.folds))
    results = [folds[index] for index in sorted(folds)]
    development = context.development
    figures = report_figures(context, trials, best, calibration)
    known = known_systems_section(context, trials, best)
    parts = [
        f"<h1>{html.escape(context.name)}</h1>",
        f'<p class="warning">{PHANTOM_WARNING}</p>' if development.simulated else "",
        _summary(context, trials, best, results, estimates),
        "<h2>The winner, as found and corrected</h2>",
        _corrected(estimates),
        "<h2>Best trials</h2>",
        _leaderboard(context, trials),
        known,
        *_charts(figures),
        gallery_section(
            development,
            _out_of_fold_probabilities(context, results),
            stored_maps(record.explanations, best.number),
        ),
        "<h2>Near-duplicates and contradictory labels</h2>",
        twins_section(development, context.groups, context.counts),
        "<h2>Model card</h2>",
        "<dl>",
        *(f"<dt>{html.escape(h)}</dt><dd>{_code(text)}</dd>" for h, text in card),
        "</dl>",
        "<h2>How to reproduce</h2>",
        _reproduction(context, trials, best, record.versions),
        "<h2>Study file</h2>",
        f"<pre>{html.escape(context.spec_text)}</pre>",
    ]
    page = files("busi_search.report") / "templates"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(context.name)} – busi-search</title>"
        f"<style>{(page / 'report.css').read_text(encoding='utf-8')}</style>"
    )
    body = _contents("\n".join(parts))
    script = f"<script>{(page / 'report.js').read_text(encoding='utf-8')}</script>"
    return f"<!doctype html><html lang=en><head>{head}</head><body>{body}{script}</body></html>"


def _contents(body: str) -> str:
    """Give every section an address, and put links to them below the title."""
    titles: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        titles.append(found.group(1))
        return f'<h2 id="s{len(titles)}">{found.group(1)}</h2>'

    body = re.sub(r"<h2>(.*?)</h2>", numbered, body)
    links = "".join(f'<a href="#s{n}">{title}</a> ' for n, title in enumerate(titles, start=1))
    return body.replace("</h1>", f"</h1><nav>{links}</nav>", 1)


def _charts(figures: Mapping[str, go.Figure]) -> list[str]:
    """Every figure as HTML: heading, plot, caption; headings of sections between them."""
    begins = {name: title for title, name in _SECTIONS.items()}
    parts = []
    for index, (name, figure) in enumerate(figures.items()):
        if name in begins:
            parts.append(f"<h2>{begins[name]}</h2>")
        title = html.escape(figure.layout.title.text)
        # The heading above says it, and wraps on a phone.
        shown = go.Figure(figure).update_layout(title=None)
        plot = shown.to_html(
            full_html=False,
            include_plotlyjs=index == 0,
            config={"responsive": True, "displaylogo": False, "displayModeBar": False},
        )
        kind = "chart wide" if name in WIDE else "chart"
        parts.append(
            f'<figure class="{kind}"><h3>{title}</h3><div class="plot">{plot}</div>'
            f"<figcaption>{CAPTIONS[name]}</figcaption></figure>"
        )
        if name == "savings" and "importances" not in figures:
            parts.append(f"<p>{NO_IMPORTANCES}</p>")
    return parts


def report_figures(
    context: StudyContext,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    calibration: Calibration,
) -> dict[str, go.Figure]:
    """Return the figures of the page by name, in their order.

    Args: as :func:`render_report`.
    """
    num_folds = len(context.partition.folds)
    folds = stored_folds(best, num_folds)
    results = [folds[index] for index in sorted(folds)]
    section, development = context.spec.study, context.development
    objective, direction = section.objective, section.direction
    finished = list(filter(is_finished, trials))
    trained = {t.number: folds_begun(t, num_folds) for t in finished}
    scored = with_expected_values(trials, running_means=section.reports_running_means)
    figures = {
        "history": search_charts.history_figure(scored, objective, direction),
        "savings": search_charts.savings_figure(trained, num_folds),
    }
    if section.further_objectives:
        front = pareto_front(trials, section)
        figures["pareto"] = search_charts.pareto_figure(trials, front, section.objectives)
    parallel = search_charts.parallel_figure(scored, objective, direction)
    if parallel is not None:
        figures["parallel"] = parallel
    shares = parameter_importances(scored, direction)
    if shares:
        figures["importances"] = importance_figure(shares)
    slices = slice_figure(scored, objective)
    if slices is not None:
        figures["slices"] = slices
    return figures | _winner_figures(context, results, calibration, development.class_names)


def _winner_figures(
    context: StudyContext,
    results: Sequence[FoldResult],
    calibration: Calibration,
    class_names: tuple[str, ...],
) -> dict[str, go.Figure]:
    development = context.development
    labels, positive = development.labels, development.positive
    gathered = gather_out_of_fold(results, context.partition.folds).log_probabilities
    rows = softmax(gathered)
    calibrated = apply_temperature(gathered, calibration.temperature)
    return {
        "learning_curves": charts.curves_figure(results),
        "roc": charts.roc_figure(rows, labels, class_names, positive),
        "precision_recall": charts.precision_recall_figure(rows, labels, class_names, positive),
        "reliability": charts.reliability_figure(rows, calibrated, labels),
        "operating": charts.operating_figure(
            calibrated[:, positive],
            labels == positive,
            calibration.operating_point,
            class_names[positive],
        ),
        "confusion": charts.confusion_figure(rows, labels, class_names),
    }


def _reproduction(
    context: StudyContext,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    versions: Mapping[str, Any],
) -> str:
    """The lines to type, and what the study ran on."""
    overrides = re.findall(r"^# --set (.*)$", context.spec_text, flags=re.MULTILINE)
    finished = num_finished(trials)
    words = ["busi-search", "run", context.origin, "--name", context.name]
    words += ["--trials", str(finished)]
    for override in overrides:
        words += ["--set", override]
    replay = ["busi-search", "replay", context.name, str(best.number)]
    rows = "".join(
        f"<tr><td>{html.escape(str(name))}</td><td>{html.escape(str(version))}</td></tr>"
        for name, version in versions.items()
    )
    return (
        "<p>The first line searches again, on a home that does not hold the study; the second "
        "trains the winner again from its seeds and compares every fold. On one kind of CPU and "
        "with these versions the figures are the same to the last bit; elsewhere rounding may "
        "differ, and a search then takes other turns.</p>"
        f"<pre>{html.escape(shlex.join(words))}\n{html.escape(shlex.join(replay))}</pre>"
        f"<p>Images: fingerprint <code>{context.partition.fingerprint}</code>; who is in which "
        f"fold: <code>{context.partition.digest()}</code>, listed in the study run's "
        f"<code>partition.json</code>.</p><table><tr><th>ran on</th><th></th></tr>{rows}</table>"
    )


def _code(text: str) -> str:
    """Escape a sentence; what stands in backticks becomes code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", html.escape(text))


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
    trained = sum(folds_begun(trial, len(context.partition.folds)) for trial in trials)
    finished = num_finished(trials)
    possible = len(context.partition.folds) * finished
    return (
        f"<p>Of {finished} configurations "
        f"({count[TrialState.PRUNED]} given up early, which saved "
        f"{max(0, possible - trained)} of {possible} fold trainings; {count[TrialState.FAIL]} "
        f"failed), trial {best.number} is the best: {objective} "
        f"<b>{estimate.naive:.3f}</b> as found, <b>{estimate.value:.3f}</b> "
        f"(95 % interval {estimate.low:.3f} to {estimate.high:.3f}) after correction for having "
        f"been chosen among many. AUC {figures['cv_auc']:.3f} ± {figures['cv_auc_std']:.3f} over "
        f"{len(results)} folds, accuracy {figures['cv_accuracy']:.3f}, macro or malignant F1 "
        f"{figures['cv_f1']:.3f}.</p><p>Data: {html.escape(context.development.name)}, "
        f"{counts['num_images']} images in {counts['num_groups']} groups of near-duplicates, "
        f"which no fold divides; {counts['num_quarantined']} images whose near-duplicates "
        f"are labelled otherwise are left out; {counts['num_test']} test images are "
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
    full = [trial_hyperparameters(t).model_dump() for t in complete]
    names = [name for name in context.spec.space if len({str(f[name]) for f in full}) > 1]
    header = ["trial", context.spec.study.objective, *names, "recipe"]
    rows = ["<tr>" + "".join(f"<th>{html.escape(name)}</th>" for name in header) + "</tr>"]
    for trial in ranked:
        hyperparameters: Mapping[str, object] = trial_hyperparameters(trial).model_dump()
        cells = [str(trial.number), f"{main_value(trial):.4f}"]
        cells += [_short(hyperparameters[name]) for name in names]
        cells.append(recipe_name(trial) or "")
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    return f"<table>{''.join(rows)}</table>"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float | np.floating) else str(value)
