"""What is wrong with a folder of images."""

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.data.describe import check_dataset
from busi_search.data.layouts.table import table_of_folder
from busi_search.files import user_path


def data_check(
    ctx: click.Context, path: str, groups: str | None, write_table: str | None, as_json: bool
) -> None:
    """What ``busi-search data check`` does."""
    if write_table is not None:
        table = user_path(write_table)
        num_images = table_of_folder(user_path(path), table)
        click.echo(f"{table}: {num_images} images listed; correct the labels, then --data {table}.")
        return
    found = check_dataset(path, cache=home_of(ctx).cache, groups=groups or "auto")
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
    if found["num_known_groups"]:
        click.echo(
            f"{found['num_known_groups']} known groups and {found['num_twin_groups']} groups of "
            f"near-duplicates, {len(found['across'])} of them across known groups: "
            f"{found['num_united_groups']} groups together"
        )
    for group in found["across"]:
        click.echo("  across known groups: " + ", ".join(group))
    for first, second in found["mirrored"]:
        click.echo(f"  mirrored: {first}, {second}")
    for warning in found["warnings"]:
        click.echo(f"  warning: {warning}")
    for group in found["conflicts"]:
        click.echo("  contradictory: " + ", ".join(group))
