"""Commands about images: ``data …``."""

from pathlib import Path

import click

from busi_search.cli.base import JSON_OPTION, home_of, print_json


@click.group()
def data() -> None:
    """Check, describe, fetch and simulate images."""


@data.command("check", short_help="Find damaged images, near-duplicates, contradictions.")
@click.argument("path")
@JSON_OPTION
@click.pass_context
def data_check(ctx: click.Context, path: str, as_json: bool) -> None:
    """Read every image and find near-duplicates and contradictory labels.

    \b
    Example:
      busi-search data check Dataset_BUSI_with_GT
    """
    from busi_search.data.describe import check_dataset

    found = check_dataset(path, cache=home_of(ctx).cache)
    if as_json:
        print_json(found)
        return
    for class_name, count in found["classes"].items():
        click.echo(f"{class_name}: {count}")
    twins = sum(len(group) for group in found["groups"])
    click.echo(
        f"{found['num_images']} images; {len(found['groups'])} groups of near-duplicates with "
        f"{twins} images; {len(found['conflicts'])} groups with contradictory labels"
    )
    for group in found["conflicts"]:
        click.echo("  contradictory: " + ", ".join(group))


@data.command("describe", short_help="Write a page about a dataset.")
@click.argument("path")
@click.option("--to", "target", required=True, help="HTML file to write.")
@click.pass_context
def data_describe(ctx: click.Context, path: str, target: str) -> None:
    """Write a page with counts, sizes, samples, near-duplicates and contradictions side by side.

    \b
    Example:
      busi-search data describe Dataset_BUSI_with_GT --to data.html
    """
    from busi_search.files import write_file
    from busi_search.report.dataset_page import describe_dataset

    write_file(target, describe_dataset(path, cache=home_of(ctx).cache).encode())
    click.echo(f"{target} written", err=True)


@data.command("download", short_help="Fetch a published dataset, checked by its hash.")
@click.argument("name", metavar="breastmnist|busi")
@click.option("--to", "folder", default="data", show_default=True, help="Folder to put it into.")
def data_download(name: str, folder: str) -> None:
    """Fetch a published dataset and check it; for BUSI, say where to get it.

    \b
    Example:
      busi-search data download breastmnist --to data
    """
    from busi_search.data.download import download_dataset

    click.echo(download_dataset(name, folder))


@data.command("phantom", short_help="Simulate images with masks, in BUSI's layout.")
@click.option("--to", "directory", required=True, help="Folder to write into.")
@click.option("--num-images", type=int, default=300, show_default=True)
@click.option("--size", "size_pixels", type=int, default=128, show_default=True, help="Pixels.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
def data_phantom(directory: str, num_images: int, size_pixels: int, seed: int) -> None:
    """Simulate ultrasound images, with lesion masks, in BUSI's layout.

    \b
    Example:
      busi-search data phantom --to phantoms --num-images 300
    """
    from busi_search.data.phantom import simulate_phantom, write_phantom

    phantom = simulate_phantom(num_images, size_pixels=size_pixels, seed=seed)
    written = write_phantom(Path(directory), phantom)
    click.echo(f"{len(written)} files below {directory}", err=True)
