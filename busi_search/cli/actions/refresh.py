"""What commands do when there are new figures: the study's pages are rendered again."""

import click

from busi_search.errors import BusiSearchError
from busi_search.home import Home
from busi_search.report.refreshing import not_refreshed, refresh_pages


def refresh_report(home: Home, study: str, *, data: str | None = None) -> None:
    """Render a study's pages in MLflow again; where that fails, say so: the figures are kept."""
    try:
        refresh_pages(home, study, data=data)
    except BusiSearchError as error:
        click.echo(not_refreshed(study, error), err=True)
