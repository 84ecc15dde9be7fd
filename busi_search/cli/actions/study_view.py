"""A study as a page, as a table, as a program."""

import click

from busi_search.cli.actions.shared import home_of
from busi_search.report.checklists.filled import IN_WORDS, STATES
from busi_search.report.study_view import load_study


def report(ctx: click.Context, name: str, target: str, checklist: str | None) -> None:
    """What ``busi-search report`` does."""
    study = load_study(name, home=home_of(ctx))
    if checklist is None:
        study.report(target)
        click.echo(f"{target} written", err=True)
        return
    counts = study.write_checklist(checklist, target).counts
    said = ", ".join(f"{counts[state]} {IN_WORDS[state]}" for state in STATES)
    click.echo(f"{target} written: of {sum(counts.values())} items {said}", err=True)


def export(ctx: click.Context, name: str, target: str) -> None:
    """What ``busi-search export`` does."""
    load_study(name, home=home_of(ctx)).export(target)
    click.echo(f"{target} written", err=True)
