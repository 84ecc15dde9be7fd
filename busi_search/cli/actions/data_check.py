"""What is wrong with a folder of images."""

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.data.describe import check_dataset


def data_check(ctx: click.Context, path: str, as_json: bool) -> None:
    """What ``busi-search data check`` does."""
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
    for first, second in found["mirrored"]:
        click.echo(f"  mirrored: {first}, {second}")
    for warning in found["warnings"]:
        click.echo(f"  warning: {warning}")
    for group in found["conflicts"]:
        click.echo("  contradictory: " + ", ".join(group))
