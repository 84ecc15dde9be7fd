"""Simulated images."""

from pathlib import Path

import click

from busi_search.data.phantom import simulate_phantom, write_phantom


def data_phantom(
    ctx: click.Context, directory: str, num_images: int, size_pixels: int, seed: int
) -> None:
    """What ``busi-search data phantom`` does."""
    del ctx
    phantom = simulate_phantom(num_images, size_pixels=size_pixels, seed=seed)
    written = write_phantom(Path(directory), phantom)
    click.echo(f"{len(written)} files below {directory}", err=True)
