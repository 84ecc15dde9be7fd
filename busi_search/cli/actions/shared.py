"""What most commands need when they run."""

import json

import click

from busi_search.cli.global_options import global_options_of
from busi_search.files import without_nan
from busi_search.home import Home, open_home


def home_of(ctx: click.Context) -> Home:
    """Return the home that the global options name."""
    given = global_options_of(ctx)
    return open_home(given.home, tracking_uri=given.tracking_uri, storage=given.storage)


def print_json(value: object) -> None:
    """Write one JSON object to stdout; what is not known is null."""
    click.echo(json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False))
