"""Whether the pretrained weights on this machine are whole."""

import click

from busi_search.cli.actions.shared import print_json
from busi_search.errors import BusiSearchError
from busi_search.training.known_weights import check_all
from busi_search.wording import count_of


def weights_check(ctx: click.Context, patterns: tuple[str, ...], as_json: bool) -> None:
    """What ``busi-search weights check`` does."""
    del ctx
    rows = check_all(patterns)
    damaged = [row for row in rows if row.state == "damaged"]
    if as_json:
        print_json({"ok": not damaged, "weights": [row.to_json() for row in rows]})
    else:
        for row in rows:
            click.echo(f"{row.architecture}: {row.problem or 'whole'}")
        if not rows:
            click.echo("No pretrained weights are on this machine.", err=True)
    if damaged:
        raise BusiSearchError(
            f"{count_of(len(damaged), 'damaged file')}; each line says what to do."
        )
