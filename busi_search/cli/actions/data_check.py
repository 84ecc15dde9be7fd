"""What is wrong with a folder of images, or with several."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from busi_search.cli.actions.shared import home_of, print_json, slow_reading
from busi_search.data.across_sets import SHOWN_PAIRS, SharedImages
from busi_search.data.describe import check_dataset, compare_datasets
from busi_search.data.layouts.table import table_of_folder
from busi_search.errors import InputError
from busi_search.files import user_path


def data_check(
    ctx: click.Context,
    paths: tuple[str, ...],
    groups: str | None,
    write_table: str | None,
    as_json: bool,
) -> None:
    """What ``busi-search data check`` does."""
    if len(paths) > 1 and (groups is not None or write_table is not None):
        raise InputError(
            "--groups and --write-table work on one set of images; name one PATH with them, or "
            "several without."
        )
    if write_table is not None:
        table = user_path(write_table)
        num_images = table_of_folder(user_path(paths[0]), table)
        click.echo(f"{table}: {num_images} images listed; correct the labels, then --data {table}.")
        return
    cache = home_of(ctx).cache
    with slow_reading():
        found = [check_dataset(path, cache=cache, groups=groups or "auto") for path in paths]
        shared = compare_datasets(paths, cache=cache) if len(paths) > 1 else []
    if as_json and len(paths) == 1:
        print_json(found[0])
        return
    if as_json:
        sets = [{"path": path, **one} for path, one in zip(paths, found, strict=True)]
        print_json({"sets": sets, "across_sets": [pair.to_json() for pair in shared]})
        return
    for path, one in zip(paths, found, strict=True):
        if len(paths) > 1:
            click.echo(f"{path}:")
        _show(one)
    for pair in shared:
        _show_shared(pair, paths)


def _show(found: Mapping[str, Any]) -> None:
    """Print what was found in one set."""
    for class_name, count in found["classes"].items():
        click.echo(f"{class_name}: {count}")
    if located := sum(found["lesions"].values()):
        by_class = ", ".join(f"{name} {count}" for name, count in found["lesions"].items())
        click.echo(f"{located} images have a lesion mask or box: {by_class}")
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


def _show_shared(shared: SharedImages, paths: Sequence[str]) -> None:
    """Print which images two sets have in common."""
    first, second = paths[shared.first], paths[shared.second]
    if not shared.pairs:
        click.echo(f"{first} and {second} have no image in common.")
        return
    click.echo(
        f"{shared.num_first} images of {first} are also in {second} ({shared.num_second} images "
        "there): neither set is an independent test of the other."
    )
    for label, other, number in shared.labels:
        click.echo(f"  {label} there {other}: {number} pairs")
    for one, other in shared.pairs[:SHOWN_PAIRS]:
        click.echo(f"  {one} is {other}")
    if len(shared.pairs) > SHOWN_PAIRS:
        click.echo(f"  and {len(shared.pairs) - SHOWN_PAIRS} more pairs (--json names all)")
