"""Commands about images: ``data …``."""

import click

from busi_search.cli.groups import Group, deferred
from busi_search.cli.options import JSON_OPTION, complete_path


@click.group(cls=Group)
def data() -> None:
    """Check, describe, fetch and simulate images."""


@data.command("check", short_help="Find damaged images, near-duplicates, contradictions.")
@click.argument("paths", metavar="PATH…", nargs=-1, required=True, shell_complete=complete_path)
@click.option(
    "--groups",
    shell_complete=complete_path,
    metavar="FILE.csv",
    help="Table of known groups such as patients, with columns file,group.",
)
@click.option(
    "--write-table",
    shell_complete=complete_path,
    metavar="FILE.csv",
    help="Write a table of the images in a folder instead.",
)
@JSON_OPTION
@deferred("busi_search.cli.actions.data_check")
def data_check() -> None:
    """Read every image and find near-duplicates and contradictory labels.

    With several PATHs, each set is checked, then images that occur in two sets are listed.

    \b
    Example:
      busi-search data check Dataset_BUSI_with_GT
      busi-search data check Dataset_BUSI_with_GT breastmnist.npz
      busi-search data check EXPORT --write-table EXPORT/labels.csv
    """


@data.command("describe", short_help="Write a page about a dataset.")
@click.argument("path", shell_complete=complete_path)
@click.option(
    "--to",
    "target",
    shell_complete=complete_path,
    metavar="FILE",
    required=True,
    help="HTML file to write.",
)
@deferred("busi_search.cli.actions.data_describe")
def data_describe() -> None:
    """Write a page with counts, sizes, samples, near-duplicates and contradictions side by side.

    \b
    Example:
      busi-search data describe Dataset_BUSI_with_GT --to data.html
    """


@data.command("download", short_help="Download a published dataset and verify its checksum.")
@click.argument("name", metavar="breastmnist|busi")
@click.option(
    "--to",
    "folder",
    shell_complete=complete_path,
    metavar="DIR",
    default="data",
    show_default=True,
    help="Folder to save it in.",
)
@click.option(
    "--size",
    "size_pixels",
    type=click.Choice(["28", "64", "128", "224"]),
    default="28",
    show_default=True,
    help="Side length of BreastMNIST's images in pixels (64 and more: MedMNIST+).",
)
@deferred("busi_search.cli.actions.data_download")
def data_download() -> None:
    """Download a published dataset and verify its checksum; for BUSI, say where to get it.

    \b
    Example:
      busi-search data download breastmnist --to data
      busi-search data download breastmnist --size 128
    """


@data.command("phantom", short_help="Simulate images with masks, in BUSI's layout.")
@click.option(
    "--to",
    "directory",
    shell_complete=complete_path,
    metavar="DIR",
    required=True,
    help="Folder to write to; must be empty.",
)
@click.option("--num-images", type=int, default=300, show_default=True)
@click.option(
    "--size", "size_pixels", type=int, default=128, show_default=True, help="Side length in pixels."
)
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@deferred("busi_search.cli.actions.data_phantom")
def data_phantom() -> None:
    """Simulate ultrasound images, with lesion masks, in BUSI's layout.

    \b
    Example:
      busi-search data phantom --to phantoms --num-images 300
    """
