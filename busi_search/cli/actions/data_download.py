"""A published dataset."""

import click

from busi_search.data.download import download_dataset


def data_download(ctx: click.Context, name: str, folder: str) -> None:
    """What ``busi-search data download`` does."""
    del ctx
    click.echo(download_dataset(name, folder))
