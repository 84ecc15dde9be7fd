"""What most commands need when they run."""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext

import click

from busi_search.cli.global_options import global_options_of, json_text
from busi_search.data.progress import listening
from busi_search.files import without_nan
from busi_search.home import Home, open_home

SECONDS_BETWEEN_LINES = 10.0


def home_of(ctx: click.Context) -> Home:
    """Return the home that the global options name."""
    given = global_options_of(ctx)
    return open_home(given.home, tracking_uri=given.tracking_uri, storage=given.storage)


def print_json(value: object) -> None:
    """Write one JSON object to stdout; what is not known is null."""
    click.echo(json_text(without_nan(value)))
    if (ctx := click.get_current_context(silent=True)) is not None:
        global_options_of(ctx).answered = True


def print_json_with_list(value: dict[str, object], name: str, items: Iterable[str]) -> None:
    """Write one JSON object to stdout whose last value is a list that need not fit into memory.

    Args:
        value: what stands before the list; at least one key.
        name: of the list.
        items: its items, each of them as JSON.
    """
    click.echo(json_text(without_nan(value)).removesuffix("}"), nl=False)
    click.echo(f", {json_text(name)}: [", nl=False)
    for index, item in enumerate(items):
        click.echo(f"{', ' if index else ''}{item}", nl=False)
    click.echo("]}")
    if (ctx := click.get_current_context(silent=True)) is not None:
        global_options_of(ctx).answered = True


@contextmanager
def slow_reading(*, quiet: bool = False) -> Iterator[None]:
    """Say every ten seconds, on stderr, how far the reading of many images has come."""
    last = time.monotonic()

    def listen(what: str, done: int, total: int) -> None:
        nonlocal last
        if done == 0:
            last = time.monotonic()
        if time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            click.echo(f"{done:,} of {total:,} {what}", err=True)

    with nullcontext() if quiet else listening(listen):
        yield
