"""What most commands need when they run."""

import click

from busi_search.cli.global_options import global_options_of, json_text
from busi_search.home import Home, open_home


def home_of(ctx: click.Context) -> Home:
    """Return the home that the global options name."""
    given = global_options_of(ctx)
    return open_home(given.home, tracking_uri=given.tracking_uri, storage=given.storage)


def print_json(value: object) -> None:
    """Write one JSON object to stdout."""
    click.echo(json_text(value))
    if (ctx := click.get_current_context(silent=True)) is not None:
        global_options_of(ctx).answered = True
