"""The sealed test."""

import click

from busi_search import terminal
from busi_search.cli.actions.shared import home_of, print_json
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.search.status import foreign_note


def evaluate(
    ctx: click.Context, name: str, version: str | None, data: str | None, as_json: bool
) -> None:
    """What ``busi-search evaluate`` does."""
    home = home_of(ctx)
    if (note := foreign_note(home, name)) is not None:
        click.echo(note, err=True)
    report = evaluate_sealed_test(home, name, version=version, data=data)
    if as_json:
        print_json(report.to_json())
        return
    terminal.show_test_report(report)
