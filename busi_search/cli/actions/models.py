"""The registered versions."""

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.models import registry
from busi_search.models.external_evaluations import external_evaluations


def models(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """What ``busi-search models`` does."""
    found = registry.list_versions(home_of(ctx), name=model)
    if as_json:
        print_json(
            {
                "models": [
                    version.to_json() | {"external": external_evaluations(version)}
                    for version in found
                ]
            }
        )
        return
    if not found:
        click.echo("No model is registered yet; `busi-search run` registers one.", err=True)
    for version in found:
        tags = version.tags
        figures = ", ".join(
            f"{key.removeprefix('busi.')} {value}"
            for key, value in sorted(tags.items())
            if key.startswith(("busi.cv_", "busi.corrected_"))
        )
        simulated = " [SIMULATED]" if version.simulated else ""
        for other in external_evaluations(version):
            low, high = other["auc_ci95"]
            figures += f", {other['data']} AUC {other['auc']:.3f} ({low:.3f} to {high:.3f})"
        alias = f" ({', '.join(version.aliases)})" if version.aliases else ""
        click.echo(
            f"{version.name} {version.version}{alias}: study {tags.get('busi.study', '?')}, "
            f"trial {tags.get('busi.trial', '?')}, {figures}{simulated}"
        )
