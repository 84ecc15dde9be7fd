"""Commands about models: the sealed test, the gate, predictions."""

from collections.abc import Callable

import click

from busi_search.cli.groups import Command, deferred
from busi_search.cli.options import JSON_OPTION, complete_path, complete_study

DATA_OPTIONS = (
    click.option(
        "--map",
        "class_map",
        multiple=True,
        metavar="THEIRS=OURS",
        help="Map a class of the images to a class of the model, such as "
        '"normal or benign=benign", or leave it out: "normal=leave out". Repeatable.',
    ),
    click.option(
        "--keep-sealed",
        is_flag=True,
        help="Leave out images in the sealed test of other studies of this home, instead of "
        "opening those tests.",
    ),
)


def data_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options for external images."""
    for option in reversed(DATA_OPTIONS):
        command = option(command)
    return command


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option("--version", help="Model version (default: the study's latest).")
@click.option(
    "--model-uri", help="Model address instead of --version: models:/busi-classifier@champion."
)
@click.option(
    "--data",
    shell_complete=complete_path,
    metavar="PATH",
    help="Images from another hospital to evaluate on: a folder, table or .npz file. The study's "
    "own images, if they were moved, open the sealed test as without --data.",
)
@click.option(
    "--prevalence",
    "prevalences",
    multiple=True,
    type=float,
    help="Prevalence at which to report predictive values, such as 0.02. Repeatable; needs --data.",
)
@click.option(
    "--sensitivity",
    type=click.FloatRange(0, 1, min_open=True),
    help="Target sensitivity of a threshold set on local images (default: that of the study's "
    "operating point). Needs --data.",
)
@data_options
@JSON_OPTION
@deferred("busi_search.cli.actions.evaluate")
def evaluate() -> None:
    """Evaluate a study's model on its sealed test, or with --data on another hospital's images.

    Every opening of the sealed test is counted. With --data, model, temperature and operating point
    stay as they are. Images that the study knows are left out, near-duplicates included, and the
    evaluation is recorded in the study's ledger.

    \b
    Example:
      busi-search evaluate busi
      busi-search evaluate busi --data HOSPITAL --prevalence 0.02
    """


@click.command(cls=Command)
@click.argument("name", shell_complete=complete_study)
@click.option(
    "--data",
    shell_complete=complete_path,
    required=True,
    metavar="PATH",
    help="Labelled images from the hospital.",
)
@click.option(
    "--keep",
    type=click.Choice(["calibration", "threshold", "nothing"]),
    default="calibration",
    show_default=True,
    help="What to keep. calibration: only reset the threshold; threshold: only refit intercept and "
    "slope of the probability; nothing: do both.",
)
@click.option(
    "--sensitivity",
    type=click.FloatRange(0, 1, min_open=True),
    help="Target sensitivity on these images (default: that of the study's operating point).",
)
@click.option("--version", help="Model version (default: the study's latest).")
@click.option(
    "--model-uri", help="Model address instead of --version: models:/busi-classifier@champion."
)
@data_options
@JSON_OPTION
@deferred("busi_search.cli.actions.evaluate")
def recalibrate() -> None:
    """Set the threshold or calibration of a model on a hospital's images; register the result.

    The network stays as it is. The new version becomes the candidate and records its parent and the
    images; `busi-search promote` then decides as for any other candidate. Repeated cross-validation
    measures what the change gains on held-out images.

    \b
    Example:
      busi-search recalibrate busi --data HOSPITAL
    """


@click.command(cls=Command)
@click.option("--version", help="Number or alias (default: candidate).")
@click.option("--model", default=None, help="Registered model (default: the one with a candidate).")
@click.option(
    "--max-auc-drop",
    type=click.FloatRange(0, 1),
    help="Largest allowed drop in test AUC below the best champion so far; the lower bound of the "
    "paired difference decides (default: the study's, 0.02).",
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, max_open=True),
    help="One-sided confidence of the lower bounds (default: the study's, 0.95).",
)
@click.option(
    "--max-openings",
    type=click.IntRange(1),
    help="Openings of the sealed test after which only a clearly better model is promoted "
    "(default: the study's, 10).",
)
@click.option(
    "--min-auc",
    type=click.FloatRange(0, 1),
    help="Value that the lower bound of the test AUC must exceed (default: the study's, 0.5).",
)
@click.option(
    "--min-sensitivity",
    type=click.FloatRange(0, 1),
    help="Lowest test sensitivity at the operating point (default: the study's, 0.5).",
)
@click.option(
    "--max-ece",
    type=click.FloatRange(0, 1),
    help="Largest calibration error (ECE) on the sealed test.",
)
@click.option("--force", is_flag=True, help="Promote even if the gate refuses.")
@click.option("--reason", help="Reason for --force; it is recorded.")
@JSON_OPTION
@deferred("busi_search.cli.actions.gate")
def promote() -> None:
    """Make the candidate the champion, if the gate agrees (exit code 3 if not).

    The candidate must be shown to be not much worse than the present champion and the best champion
    so far, on the same test images. If this comparison is missing, the sealed test is opened for
    it, which is counted. The answer also says how much the test images can show.

    \b
    Example:
      busi-search promote --version 2
    """


@click.command(cls=Command)
@click.option(
    "--model", default=None, help="Registered model (default: the one with a previous champion)."
)
@JSON_OPTION
@deferred("busi_search.cli.actions.gate")
def rollback() -> None:
    """Make the previous champion the champion again.

    \b
    Example:
      busi-search rollback
    """


@click.command(cls=Command)
@click.option("--model", default=None, help="Only this registered model (default: all).")
@JSON_OPTION
@deferred("busi_search.cli.actions.models")
def models() -> None:
    """List the registered versions, newest first.

    \b
    Example:
      busi-search models
    """


@click.command(cls=Command)
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, shell_complete=complete_path)
@click.option("--model-uri", help="Such as models:/busi-classifier@candidate (default: champion).")
@click.option(
    "--boxes",
    shell_complete=complete_path,
    metavar="FILE.csv",
    help="Where the lesions are, for a model that must be told: columns file,x,y,width,height, in "
    "pixels of the image files. Masks beside the images (NAME_mask.png) do as well.",
)
@click.option(
    "--to",
    "target",
    shell_complete=complete_path,
    metavar="FILE.csv",
    help="Write a table instead of printing lines.",
)
@click.option(
    "--keep-sealed",
    is_flag=True,
    help="Refuse images of a sealed test rather than count the opening.",
)
@JSON_OPTION
@deferred("busi_search.cli.actions.predict")
def predict() -> None:
    """Classify image files, or all images in folders.

    Each line says what the operating point calls the image, then the calibrated probabilities, and
    UNLIKE if the image is unlike the training images. Files that cannot be read are passed over
    and named at the end (exit code 1).

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
    """Open the MLflow UI of this home at the leaderboard; stop it with Ctrl-C.

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
    """Open a page, on this machine only, that classifies one image; stop it with Ctrl-C.

    POST /predict returns the result for an image file as JSON.

    \b
    Example:
      busi-search serve --port 8000
    """
