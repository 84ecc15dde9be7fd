"""Commands that keep a home in order: what is wrong, what MLflow has missed, what can go."""

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


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option("--keep-model", is_flag=True, help="Keep its registered models and their run.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@JSON_OPTION
@deferred("busi_search.cli.actions.delete")
def delete() -> None:
    """Delete a study: its trials, its runs in MLflow, its models, files and caches.

    The ledger of its sealed test is kept, and so is which images it was developed on. You are told
    how much goes before you are asked. Without --keep-model, a study whose model is the champion is
    not deleted. A tracking server keeps deleted runs until its owner removes them.

    \b
    Example:
      busi-search delete busi --keep-model
    """
    on_stop(lambda: "Interrupted; run the same command again to finish.")
