"""What MLflow is told of a winner: descriptions in Markdown, and corrected figures by name."""

from collections.abc import Mapping

from busi_search.models.registry import MODEL_NAME, RegisteredVersion
from busi_search.release.selection import Estimate
from busi_search.release.winner import Winner

PHANTOM_WARNING = "Simulated phantoms: these scores mean nothing for patients."


def describe_version(winner: Winner) -> str:
    """Return what the registry says of a version, in Markdown."""
    context, estimate = winner.context, winner.estimate
    warning = f"**{PHANTOM_WARNING}**\n\n" if context.development.simulated else ""
    return (
        f"{warning}Average of {len(context.partition.folds)} fold models of trial {winner.number} "
        f"of study `{context.name}`.\n\n"
        f"* {context.spec.study.objective}: {estimate.naive:.3f} as found, "
        f"**{estimate.value:.3f}** corrected for the "
        f"choice (95 % interval {estimate.low:.3f} to {estimate.high:.3f})\n"
        f"* data: {context.development.name}, fingerprint `{context.partition.fingerprint}`, "
        f"{context.counts['num_development']} development images in groups. "
        f"{context.partition.grouping.scope}\n"
        f"* classes: {', '.join(context.development.class_names)}\n\n"
        "Promote it with `busi-search promote`, which opens the sealed test and asks the gate; the "
        "button of MLflow does neither. For research use only."
    )


def describe_study(winner: Winner, version: RegisteredVersion) -> str:
    """Return what MLflow says of the study's run, in Markdown."""
    section = winner.context.spec.study
    searched = ", ".join(f"`{name}`" for name in winner.context.spec.space)
    return (
        f"{describe_version(winner)}\n\n"
        f"Searched: {searched}; sampler {section.sampler}, pruner {section.pruner}.\n\nRegistered "
        f"as [`{MODEL_NAME}` version {version.version}](#/models/{MODEL_NAME}/versions/"
        f"{version.version}).\n\nFigures: `report.html` under Artifacts; it works offline too."
    )


def corrected_figures(estimates: Mapping[str, Estimate]) -> dict[str, float]:
    """Return the corrected figures and their limits under the names they have in MLflow."""
    rows = {}
    for metric, estimate in estimates.items():
        rows[f"corrected_cv_{metric}"] = estimate.value
        rows[f"corrected_cv_{metric}_low"] = estimate.low
        rows[f"corrected_cv_{metric}_high"] = estimate.high
    return rows
