"""Commands that check a search by training again."""

import click

from busi_search.cli.base import on_stop_resume
from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import DEVICE_OPTION, JSON_OPTION, complete_study
from busi_search.search.executors import prepare_processes


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.argument("trial", type=click.IntRange(min=0))
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:K.")
@JSON_OPTION
@deferred("busi_search.cli.actions.replay")
def replay() -> None:
    """Train a trial again and check that every fold gives the same result (exit code 1 if not).

    \b
    Example:
      busi-search replay busi 12
    """


@click.command("leak-gap", cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--trial",
    type=click.IntRange(min=0),
    help="Trial whose configuration is used (default: the best).",
)
@click.option(
    "--seeds",
    type=click.IntRange(min=2),
    default=3,
    show_default=True,
    help="Number of fresh seeds for each kind of folds.",
)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:K.")
@JSON_OPTION
@deferred("busi_search.cli.actions.replay")
def leak_gap() -> None:
    """Measure how much scores inflate when near-duplicates fall into different folds.

    \b
    Example:
      busi-search leak-gap busi
    """


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Number of repeats of the search.",
)
@click.option(
    "--trials",
    type=click.IntRange(min=1),
    help="Finished trials of each repeat (default: as many as the study has).",
)
@click.option("--data", help="Where the images are on this machine, if they were moved.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Repeats to run at the same time (default: one per core).",
)
@DEVICE_OPTION
@click.option("--quiet", is_flag=True, help="Print no progress.")
@JSON_OPTION
@deferred("busi_search.cli.actions.audit")
def audit() -> None:
    """Check the corrected score: repeat the search without a part of the images, test on that part.

    Reports by how much the corrected score was off, and how often its interval contained the
    figure of the part left out. The sealed test is not opened and no model is registered. Run the
    command again to resume. Studies with head = "logistic" take minutes; for others use fewer
    --trials.

    \b
    Example:
      busi-search audit busi-frozen-busi --repeats 20
    """
    ctx = click.get_current_context()
    on_stop_resume(ctx, f"the audit of study '{ctx.params['name']}'")
    prepare_processes(ctx.params["device"])
