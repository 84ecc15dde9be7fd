"""Which pretrained weights are known and at hand."""

import click

from busi_search.cli.actions.shared import print_json
from busi_search.training.known_weights import KnownWeights, list_weights
from busi_search.training.timm_weights import weights_folder


def weights_list(ctx: click.Context, patterns: tuple[str, ...], as_json: bool) -> None:
    """What ``busi-search weights list`` does."""
    del ctx
    rows = list_weights(patterns)
    if as_json:
        folder = str(weights_folder())
        print_json({"folder": folder, "weights": [row.to_json() for row in rows]})
        return
    for row in rows:
        click.echo(_line(row))
    click.echo(f"Downloaded files are in {weights_folder()}", err=True)


def _line(row: KnownWeights) -> str:
    size = "size unknown" if row.num_bytes is None else f"{row.num_bytes / 1e6:.1f} MB"
    digest = "" if row.sha256 is None else f", SHA-256 {row.sha256[:16]}"
    licence = "" if row.license is None else f", licence {row.license}"
    warning = " (no commercial use)" if row.non_commercial else ""
    return f"{row.state:<9}{row.architecture}: {row.source}, {size}{digest}{licence}{warning}"
