"""Commands about models: the sealed test, the gate, predictions."""

from collections.abc import Callable

import click

from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import JSON_OPTION, complete_study

DATA_OPTIONS = (
    click.option(
        "--map",
        "class_map",
        multiple=True,
        metavar="THEIRS=OURS",
        help="Which class of the model a class of the images counts as, such as "
        '"normal or benign=benign"; or "normal=leave out". Repeat it, or write semicolons.',
    ),
    click.option(
        "--keep-sealed",
        is_flag=True,
        help="Leave out images that other studies of this home have sealed, rather than count the "
        "opening.",
    ),
)


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of images of elsewhere."""
    for option in reversed(DATA_OPTIONS):
        command = option(command)
    return command


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option("--version", help="Model version (default: what the study registered last).")
@click.option("--model-uri", help="The same as an address: models:/busi-classifier@champion.")
@click.option(
    "--data",
    metavar="PATH",
    help="Evaluate on these images instead: another hospital's folder, table or .npz file. If they "
    "are the study's own images, which were moved, the sealed test is opened there.",
)
@click.option(
    "--prevalence",
    "prevalences",
    multiple=True,
    type=float,
    help="Share of patients with the disease at which predictive values are wanted, such as 0.02; "
    "repeatable. Needs --data.",
)
@click.option(
    "--sensitivity",
    type=click.FloatRange(0, 1, min_open=True),
    help="Wanted of a threshold from local images, whose worth is shown (default: what the study's "
    "operating point promised). Needs --data.",
)
@data_options
@JSON_OPTION
@deferred("busi_search.cli.actions.evaluate")
def evaluate() -> None:
    """Evaluate a study's model on its sealed test, or with --data on another hospital's images.

    Every opening of the sealed test is counted. With --data the frozen model, temperature and
    operating point are used as they are; images that the study knows are left out, near-duplicates
    included, and the evaluation stands in the study's ledger.

    \b
    Example:
      busi-search evaluate busi
      busi-search evaluate busi --data HOSPITAL --prevalence 0.02
    """


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option("--data", required=True, metavar="PATH", help="Images of the hospital, with labels.")
@click.option(
    "--keep",
    type=click.Choice(["calibration", "threshold", "nothing"]),
    default="calibration",
    show_default=True,
    help="What stays as it is. calibration: only the threshold is set anew; threshold: only "
    "intercept and slope of the probability are; nothing: both are.",
)
@click.option(
    "--sensitivity",
    type=click.FloatRange(0, 1, min_open=True),
    help="That the threshold shall have on these images (default: what the study's operating point "
    "promised).",
)
@click.option("--version", help="Model version (default: what the study registered last).")
@click.option("--model-uri", help="The same as an address: models:/busi-classifier@champion.")
@data_options
@JSON_OPTION
@deferred("busi_search.cli.actions.evaluate")
def recalibrate() -> None:
    """Register a version with a threshold or a calibration from a hospital's own images.

    The network stays as it is. The version becomes the candidate, with its parent and the images
    written down, and `busi-search promote` asks the gate as for any other. What the change is
    worth is measured on images that were left out, in repeated cross-validation.

    \b
    Example:
      busi-search recalibrate busi --data HOSPITAL
    """


@click.command(cls=Command)
@click.option("--version", help="Number or alias (default: candidate).")
@click.option("--model", default=None, help="Registered model (default: the one there is).")
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
@click.option("--model", default=None, help="Registered model (default: the one there is).")
@JSON_OPTION
@deferred("busi_search.cli.actions.gate")
def rollback() -> None:
    """Make the previous champion the champion again.

    \b
    Example:
      busi-search rollback
    """


@click.command(cls=Command)
@click.option("--model", default=None, help="Registered model (default: the one there is).")
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
