"""The command line: each command is one library call."""

import click

from busi_search.cli import explaining, images, maintaining, releasing, searching
from busi_search.cli.base import Commands, run_and_leave

__all__ = ["command", "main"]


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--home",
    envvar="BUSI_SEARCH_HOME",
    default="mlruns",
    show_default=True,
    help="Folder of the stores, artifacts and caches.",
)
@click.option("--tracking-uri", envvar="MLFLOW_TRACKING_URI", help="MLflow store or server.")
@click.option("--storage", envvar="BUSI_SEARCH_STORAGE", help="Optuna storage URL.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="busi-search")
def main(home: str, tracking_uri: str | None, storage: str | None, debug: bool) -> None:
    """Find the best honest breast-ultrasound classifier, and show why it is the best.

    \b
    busi-search run --trials 100                        try it on simulated images
    busi-search run --data Dataset_BUSI_with_GT         search your own
    busi-search ui                                      browse the trials
    busi-search promote && busi-search predict a.png    use the winner
    """


assert isinstance(main, Commands)
main.add_sections(
    {
        "Search": (
            searching.run,
            searching.worker,
            searching.studies,
            explaining.explain,
            searching.status,
            searching.report,
            searching.export,
            searching.replay,
            searching.leak_gap,
        ),
        "Images": (images.data,),
        "Models": (
            releasing.evaluate,
            releasing.promote,
            releasing.rollback,
            releasing.models,
            releasing.predict,
            releasing.ui,
            releasing.serve,
        ),
        "Maintenance": (maintaining.doctor, maintaining.sync),
    }
)


def command() -> None:
    """What `busi-search` runs."""
    run_and_leave(main)
