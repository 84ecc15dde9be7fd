"""Commands that keep a home in order: what is wrong, and what MLflow has missed."""

import click

from busi_search.cli.base import on_stop
from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import JSON_OPTION, complete_study


@click.command(cls=Command)
@click.option("--fix", is_flag=True, help="Mend what can be mended without a loss.")
@JSON_OPTION
@deferred("busi_search.cli.actions.doctor")
def doctor() -> None:
    """Say what works here and what was left behind, each with the line that mends it.

    Exit code 1 if a problem is left.

    \b
    Example:
      busi-search doctor --fix
    """


@click.command(cls=Command)
@click.argument("name", required=False, shell_complete=complete_study)
@JSON_OPTION
@deferred("busi_search.cli.actions.sync")
def sync() -> None:
    """Send MLflow the finished trials it is without, of one study or of all.

    \b
    Example:
      busi-search sync busi
    """
    on_stop(lambda: "Interrupted; what is sent is sent, the same line sends the rest.")
