"""Commands about models: the sealed test, the gate, predictions."""

import click

from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import JSON_OPTION, complete_study


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option("--version", help="Model version (default: what the study registered last).")
@click.option("--data", help="Where its images are on this machine, if they were moved.")
@JSON_OPTION
@deferred("busi_search.cli.actions.evaluate")
def evaluate() -> None:
    """Open the sealed test for a study's model; every opening is counted.

    \b
    Example:
      busi-search evaluate busi
    """


@click.command(cls=Command)
@click.option("--version", help="Number or alias (default: candidate).")
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@click.option(
    "--max-auc-drop",
    type=click.FloatRange(0, 1),
    help="How much worse than the best champion so far it may be, in test AUC (default: the "
    "study's, 0.02). That must be shown: the lower bound of the paired difference decides.",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="Of the lower bounds, one-sided (default: the study's, 0.95).",
)
@click.option(
    "--max-openings",
    type=click.IntRange(1),
    help="Openings after which the sealed test is spent and only a model shown to be better is "
    "promoted (default: the study's, 10).",
)
@click.option(
    "--min-auc",
    type=click.FloatRange(0, 1),
    help="What the lower bound of its test AUC must be above (default: the study's, 0.5).",
)
@click.option(
    "--min-sensitivity",
    type=click.FloatRange(0, 1),
    help="On the sealed test, at the operating point (default: the study's, 0.5).",
)
@click.option(
    "--max-ece", type=click.FloatRange(0, 1), help="Calibration error on the sealed test."
)
@click.option("--force", is_flag=True, help="Promote although the gate refuses.")
@click.option("--reason", help="Why; needed with --force, and recorded.")
@JSON_OPTION
@deferred("busi_search.cli.actions.gate")
def promote() -> None:
    """Make the candidate the champion, if the gate agrees (exit code 3 if not).

    It is compared with the present champion and with the best champion so far, and must be shown
    to be not much worse; the answer says how little or how much the test images can show. A
    candidate that was not yet evaluated on the sealed test, or not against these champions, is
    evaluated first; the opening is counted.

    \b
    Example:
      busi-search promote --version 2
    """


@click.command(cls=Command)
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@JSON_OPTION
@deferred("busi_search.cli.actions.gate")
def rollback() -> None:
    """Make the previous champion the champion again.

    \b
    Example:
      busi-search rollback
    """


@click.command(cls=Command)
@click.option("--model", default=None, help="Registered model (default: busi-classifier).")
@JSON_OPTION
@deferred("busi_search.cli.actions.models")
def models() -> None:
    """List the registered versions, newest first.

    \b
    Example:
      busi-search models
    """


@click.command(cls=Command)
@click.argument("paths", nargs=-1, required=True)
@click.option("--model-uri", help="Such as models:/busi-classifier@candidate (default: champion).")
@click.option(
    "--boxes",
    metavar="FILE.csv",
    help="Where the lesions are, for a model that must be told: columns file,x,y,width,height, in "
    "pixels of the image files. Masks beside the images (NAME_mask.png) do as well.",
)
@click.option("--to", "target", metavar="FILE.csv", help="Write a table rather than print lines.")
@click.option(
    "--keep-sealed",
    is_flag=True,
    help="Refuse images of a sealed test rather than count the opening.",
)
@JSON_OPTION
@deferred("busi_search.cli.actions.predict")
def predict() -> None:
    """Class probabilities of image files, or of all images in folders.

    Images that a study of this home has sealed are recognised; asking about them opens that
    study's test, which is counted and said. A model that looks at the lesion needs a box or a mask
    for every image.

    \b
    Example:
      busi-search predict "benign (1).png"
      busi-search predict images --to answers.csv
    """


@click.command(cls=Command)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="TCP port."
)
@click.option("--study", help="Study to open (default: the latest).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@deferred("busi_search.cli.actions.ui")
def ui() -> None:
    """Open the MLflow UI on this home, at the leaderboard; Ctrl-C ends it.

    \b
    Example:
      busi-search ui --port 5001
    """


@click.command(cls=Command)
@click.option(
    "--port", type=click.IntRange(1, 65535), default=8000, show_default=True, help="TCP port."
)
@click.option("--model-uri", help="Such as models:/busi-classifier@candidate (default: champion).")
@click.option("--no-browser", is_flag=True, help="Only print the address.")
@click.option(
    "--keep-sealed",
    is_flag=True,
    help="Refuse images of a sealed test rather than count the opening.",
)
@deferred("busi_search.cli.actions.serve")
def serve() -> None:
    """Open a page, on this machine only, where one image gets an answer; Ctrl-C ends it.

    POST /predict answers an image file with JSON.

    \b
    Example:
      busi-search serve --port 8000
    """
