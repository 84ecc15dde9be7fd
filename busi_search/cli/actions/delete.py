"""A study, deleted."""

import sys

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.errors import InputError
from busi_search.upkeep.delete import Deletion, delete_study, plan_deletion
from busi_search.wording import count_of


def delete(ctx: click.Context, name: str, keep_model: bool, yes: bool, as_json: bool) -> None:
    """What ``busi-search delete`` does."""
    home = home_of(ctx)
    plan = plan_deletion(home, name, keep_model=keep_model)
    if not yes:
        if as_json or not sys.stdin.isatty():
            raise InputError(f"{_sentence(plan)} Add --yes to delete it.")
        click.confirm(f"{_sentence(plan)} Delete it?", abort=True, err=True)
    done = delete_study(home, name, keep_model=keep_model)
    if as_json:
        print_json(done.to_json())
        return
    click.echo(f"deleted: {_sentence(done)}", err=True)
    click.echo(f"  the ledger of its sealed test is kept: {done.ledger}", err=True)


def _sentence(found: Deletion) -> str:
    kept = ", ".join(found.kept_models)
    models = f"kept model versions {kept}" if kept else count_of(len(found.models), "model version")
    return (
        f"study '{found.study}': {count_of(found.trials, 'trial')}, "
        f"{count_of(found.runs, 'run')} in MLflow, {models}, {found.num_bytes / 1e6:.1f} MB of "
        "files."
    )
