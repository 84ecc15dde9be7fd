"""What MLflow has missed."""

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.errors import BusiSearchError
from busi_search.search.store.foreign import foreign_sentence
from busi_search.upkeep.sync import sync_studies
from busi_search.wording import count_of


def sync(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """What ``busi-search sync`` does."""
    synced = sync_studies(home_of(ctx), [name] if name else None)
    if as_json:
        print_json({"studies": [study.to_json() for study in synced]})
    else:
        for study in synced:
            click.echo(
                f"{study.study}: sent {count_of(study.num_sent, 'trial')}, {study.num_there} "
                "already there"
                if study.problem is None
                else f"{study.study}: not sent: {study.problem}"
            )
            if study.foreign:
                click.echo(f"  {foreign_sentence(study.foreign)}")
    failed = [study.study for study in synced if study.problem is not None]
    if failed:
        raise BusiSearchError(
            f"{', '.join(failed)} could not be sent; nothing is lost; run the same command again."
        )
