"""A study as a page, as a table, as a program."""

import click

from busi_search.cli.actions.shared import home_of
from busi_search.report.study_view import load_study


def report(ctx: click.Context, name: str, target: str, data: str | None) -> None:
    """What ``busi-search report`` does."""
    load_study(name, home=home_of(ctx)).report(target, data=data)
    click.echo(f"{target} written", err=True)


def export(ctx: click.Context, name: str, target: str) -> None:
    """What ``busi-search export`` does."""
    load_study(name, home=home_of(ctx)).export(target)
    click.echo(f"{target} written", err=True)
