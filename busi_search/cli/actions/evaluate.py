"""The sealed test."""

import click

from busi_search import terminal
from busi_search.cli.actions.shared import home_of, print_json
from busi_search.release.evaluation import evaluate_sealed_test


def evaluate(ctx: click.Context, name: str, version: str | None, as_json: bool) -> None:
    """What ``busi-search evaluate`` does."""
    report = evaluate_sealed_test(home_of(ctx), name, version=version)
    if as_json:
        print_json(report.to_json())
        return
    terminal.show_test_report(report)
