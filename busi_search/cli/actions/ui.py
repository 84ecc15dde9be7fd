"""The MLflow UI."""

import click

from busi_search.cli.actions.shared import home_of
from busi_search.cli.base import on_stop
from busi_search.upkeep.ui import serve_ui


def ui(ctx: click.Context, port: int, study: str | None, no_browser: bool) -> None:
    """What ``busi-search ui`` does."""
    on_stop(lambda: "The UI has ended.")
    serve_ui(home_of(ctx), port=port, study=study, open_browser=not no_browser)
