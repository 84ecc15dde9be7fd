"""Commands that maintain a home: doctor, sync and delete."""

import click

from busi_search.cli.base import on_stop
from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import JSON_OPTION, complete_study


@click.command(cls=Command)
@click.option("--fix", is_flag=True, help="Fix what can be fixed without losing anything.")
@JSON_OPTION
@deferred("busi_search.cli.actions.doctor")
def doctor() -> None:
    """Check this installation and its studies, and print a fix for each problem.

    Exit code 1 if a problem remains.

    \b
    Example:
      busi-search doctor --fix
    """


@click.command(cls=Command)
@click.argument("name", required=False, shell_complete=complete_study)
@JSON_OPTION
@deferred("busi_search.cli.actions.sync")
def sync() -> None:
    """Send finished trials that MLflow lacks, for one study or for all.

    \b
    Example:
      busi-search sync busi
    """
    on_stop(lambda: "Interrupted; run the same command again to send the rest.")


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option("--keep-model", is_flag=True, help="Keep the registered models and their run.")
@click.option("--yes", is_flag=True, help="Delete without asking.")
@JSON_OPTION
@deferred("busi_search.cli.actions.delete")
def delete() -> None:
    """Delete a study: its trials, its runs in MLflow, its models, files and caches.

    The ledger of its sealed test and the list of its images are kept. The command shows what will
    be deleted and asks first. A study whose model is the champion is only deleted with
    --keep-model. A tracking server keeps deleted runs until its administrator removes them.

    \b
    Example:
      busi-search delete busi --keep-model
    """
    on_stop(lambda: "Interrupted; run the same command again to finish.")
