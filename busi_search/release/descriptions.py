"""Sentences and figures about a winner, for people and for MLflow."""

import math
from collections.abc import Mapping

import numpy as np

from busi_search.models.registry import RegisteredVersion
from busi_search.release.calibration_figures import binned_error_if_calibrated
from busi_search.release.intervals import Figure
from busi_search.release.selection import Estimate
from busi_search.release.winner import CALIBRATED, CALIBRATED_METRICS, Winner
from busi_search.search.context import StudyContext

PHANTOM_WARNING = "Simulated phantoms: these scores mean nothing for patients."


def describe_version(winner: Winner) -> str:
    """Return what the registry says of a version, in Markdown."""
    context, estimate = winner.context, winner.estimate
    warning = f"**{PHANTOM_WARNING}**\n\n" if context.development.simulated else ""
    return (
        f"{warning}Average of {len(context.partition.folds)} fold models of trial {winner.number} "
        f"of study `{context.name}`.\n\n"
        f"* {shown_name(context.spec.study.metric)}: {estimate.naive:.3f} as found, "
        f"**{estimate.value:.3f}** corrected for the "
        f"choice (95 % interval {estimate.low:.3f} to {estimate.high:.3f})\n"
        f"* {describe_calibration(winner)}\n"
        f"* data: {context.development.name}, fingerprint `{context.partition.fingerprint}`, "
        f"{context.counts['num_development']} development images in groups. "
        f"{context.partition.grouping.scope}\n"
        f"* classes: {', '.join(context.development.class_names)}\n\n"
        "Promote it with `busi-search promote`, which opens the sealed test and asks the gate; the "
        "button of MLflow does neither. For research use only."
    )


def shown_name(metric: str) -> str:
    """Return the name of a corrected figure for people: whose it is, where that makes a difference.

    Args:
        metric: as in :attr:`Winner.estimates`.
    """
    plain = metric.removeprefix(CALIBRATED)
    if plain != metric:
        return f"cv_{plain} (calibrated)"
    return f"cv_{plain} (as trained)" if plain in (*CALIBRATED_METRICS, "ece") else f"cv_{plain}"


def shown_estimates(estimates: Mapping[str, Estimate], metric: str) -> dict[str, Estimate]:
    """Return the corrected figures that people are shown, by the names they are shown.

    The binned calibration error is left out: it is mostly noise, and there are better figures of
    calibration. Where a search chose by it, it is shown.

    Args:
        estimates: as :attr:`Winner.estimates`.
        metric: the one that the search chose by; it comes first.
    """
    names = [metric, *(name for name in estimates if name not in (metric, "ece"))]
    return {shown_name(name): estimates[name] for name in names}


def describe_calibration(winner: Winner) -> str:
    """Return a sentence on the winner's calibration and on whose it is."""
    figures = winner.calibration_figures
    development = winner.context.development
    return (
        f"calibration of the probability of {development.class_names[development.positive]} "
        f"(temperature {winner.calibration.temperature:.2f}): "
        f"intercept {figures['calibration_intercept']:.2f}, "
        f"slope {figures['calibration_slope']:.2f}, "
        f"observed/expected {figures['observed_expected']:.2f}, "
        f"error {figures['calibration_error']:.2f}; of out-of-fold predictions, "
        "each fold's with the temperature of the other folds"
    )


def warn_of_objective(context: StudyContext) -> str | None:
    """Return what choosing by ``cv_ece`` is worth with a study's images; None for other figures."""
    if "cv_ece" not in context.spec.study.objectives:
        return None
    least = 1 / len(context.development.class_names)
    sizes = [len(fold.validation) for fold in context.partition.folds]
    noise = np.mean([binned_error_if_calibrated(np.linspace(least, 1, size)) for size in sizes])
    return (
        f"cv_ece grows with noise: on folds of {round(np.mean(sizes))} images even a perfectly "
        f"calibrated model has about {noise:.2f}, so that choosing by it is mostly chance; "
        "cv_log_loss and cv_brier judge calibration without this bias."
    )


def describe_study(winner: Winner, version: RegisteredVersion) -> str:
    """Return what MLflow says of the study's run, in Markdown."""
    section = winner.context.spec.study
    searched = ", ".join(f"`{name}`" for name in winner.context.spec.space)
    return (
        f"{describe_version(winner)}\n\n"
        f"Searched: {searched}; sampler {section.sampler}, pruner {section.pruner}.\n\nRegistered "
        f"as [`{version.name}` version {version.version}](#/models/{version.name}/versions/"
        f"{version.version}).\n\nFigures: `report.html` under Artifacts; it works offline too."
    )


def corrected_figures(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return the corrected figures and their limits under the names they have in MLflow."""
    rows = {}
    for metric, estimate in estimates.items():
        rows[f"corrected_cv_{metric}"] = estimate.value
        rows[f"corrected_cv_{metric}_low"] = estimate.low
        rows[f"corrected_cv_{metric}_high"] = estimate.high
    return {name: value for name, value in rows.items() if math.isfinite(value)}


def calibration_rows(figures: Mapping[str, Figure]) -> dict[str, float]:
    """Return the known figures of calibration and their limits under their names in MLflow."""
    rows = {}
    for name, figure in figures.items():
        if np.isfinite(figure.value):
            rows[f"oof_{name}"] = figure.value
            rows[f"oof_{name}_low"], rows[f"oof_{name}_high"] = figure.ci95
    return rows
