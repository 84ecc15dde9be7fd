"""A page about a dataset."""

import click

from busi_search.cli.actions.shared import home_of, slow_reading
from busi_search.files import utf8, write_file
from busi_search.report.dataset_page import describe_dataset


def data_describe(ctx: click.Context, path: str, target: str) -> None:
    """What ``busi-search data describe`` does."""
    with slow_reading():
        page = describe_dataset(path, cache=home_of(ctx).cache)
    write_file(target, utf8(page))
    click.echo(f"{target} written", err=True)
