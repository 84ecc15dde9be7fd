"""The command line: each command is one library call.

``searching``, ``checking``, ``images``, ``releasing``, ``weights`` and ``maintaining`` hold how the
commands are written: their options and their help. What a command does is in ``actions``, imported
when it runs.
"""

import click

from busi_search.cli.base import exit_code_of, run_and_leave, write_any_text
from busi_search.cli.groups import LazyGroup, Row

__all__ = ["command", "main"]

_SEARCHING = "busi_search.cli.searching"
_CHECKING = "busi_search.cli.checking"
_IMAGES = "busi_search.cli.images"
_RELEASING = "busi_search.cli.releasing"
_MAINTAINING = "busi_search.cli.maintaining"
_WEIGHTS = "busi_search.cli.weights"
_SECTIONS = {
    "Search": (
        Row("run", _SEARCHING, "Search, then register the best trial as candidate."),
        Row("worker", _SEARCHING, "Add workers to a running search."),
        Row("studies", _SEARCHING, "List bundled studies and the studies of this home."),
        Row("explain", _SEARCHING, "Explain a key of a study file."),
        Row("status", _SEARCHING, "Show a study's trials, its best one and the time left."),
        Row("report", _SEARCHING, "Write a study as one HTML page that works offline."),
        Row("export", _SEARCHING, "Write trials as a table, or the model as ONNX."),
        Row("replay", _CHECKING, "Train a trial again and check its results."),
        Row("leak-gap", _CHECKING, "Measure how much split near-duplicates inflate scores."),
        Row("audit", _CHECKING, "Repeat the search on parts and check its corrected score."),
    ),
    "Images": (Row("data", _IMAGES, "Check, describe, fetch and simulate images."),),
    "Models": (
        Row("evaluate", _RELEASING, "Evaluate on the sealed test or another hospital."),
        Row("recalibrate", _RELEASING, "Set a model's threshold or calibration for a hospital."),
        Row("promote", _RELEASING, "Make the candidate the champion, if the gate agrees."),
        Row("rollback", _RELEASING, "Make the previous champion the champion again."),
        Row("models", _RELEASING, "List the registered versions, newest first."),
        Row("predict", _RELEASING, "Classify images or folders of images."),
        Row("ui", _RELEASING, "Open the MLflow UI at the leaderboard."),
        Row("serve", _RELEASING, "Open a page that classifies one image."),
    ),
    "Maintenance": (
        Row("weights", _WEIGHTS, "List, fetch and check pretrained weights."),
        Row("doctor", _MAINTAINING, "Check the installation; print a fix per problem."),
        Row("sync", _MAINTAINING, "Send MLflow the finished trials it lacks."),
        Row("delete", _MAINTAINING, "Delete a study; keep the ledger of its test."),
    ),
}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="busi-search")
def main() -> None:
    """Find a good breast-ultrasound classifier; estimate fairly how it will do on new images.

    \b
    busi-search run --trials 100                        try it on simulated images
    busi-search run --data Dataset_BUSI_with_GT         search on your own images
    busi-search ui                                      browse the trials
    busi-search promote && busi-search predict a.png    use the winner
    """


main.add_sections(_SECTIONS)


def command() -> None:
    """What `busi-search` runs."""
    write_any_text()
    run_and_leave(lambda: exit_code_of(main))
