"""A page for one image."""

import click

from busi_search.cli.actions.shared import home_of
from busi_search.cli.base import on_stop
from busi_search.models.loading import load_champion
from busi_search.serving.app import serve_page


def serve(
    ctx: click.Context, port: int, model_uri: str | None, no_browser: bool, keep_sealed: bool
) -> None:
    """What ``busi-search serve`` does."""
    on_stop(lambda: "The page has ended.")
    classifier = load_champion(home_of(ctx), model_uri)
    serve_page(classifier, port=port, open_browser=not no_browser, keep_sealed=keep_sealed)
