"""Pretrained weights, brought onto this machine."""

import click

from busi_search.cli.actions.shared import print_json
from busi_search.training.known_weights import fetch_weights


def weights_fetch(ctx: click.Context, architectures: tuple[str, ...], as_json: bool) -> None:
    """What ``busi-search weights fetch`` does."""
    del ctx
    rows = []
    for architecture in architectures:
        row = fetch_weights(architecture)
        rows.append(row)
        if not as_json:
            click.echo(row.path)
        if row.non_commercial:
            click.echo(
                f"{architecture}: its licence ({row.license}) forbids commercial use.", err=True
            )
    if as_json:
        print_json({"weights": [row.to_json() for row in rows]})
