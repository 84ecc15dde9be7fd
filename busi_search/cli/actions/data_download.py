"""A published dataset."""

import click

from busi_search.data.download import download_dataset


def data_download(name: str, folder: str) -> None:
    """What ``busi-search data download`` does."""
    click.echo(download_dataset(name, folder))
