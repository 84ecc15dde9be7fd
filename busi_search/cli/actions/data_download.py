"""A published dataset."""

import click

from busi_search.data.download import download_dataset


def data_download(ctx: click.Context, name: str, folder: str, size_pixels: str) -> None:
    """What ``busi-search data download`` does."""
    del ctx
    click.echo(download_dataset(name, folder, size_pixels=int(size_pixels)))
