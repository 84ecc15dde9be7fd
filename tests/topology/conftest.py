"""A database server for the whole session of tests."""

import contextlib
from collections.abc import Iterator

import pytest

from tests.topology.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    pytest.importorskip("psycopg")
    server = Postgres()
    server.start()
    yield server
    with contextlib.suppress(AssertionError):
        server.stop()


@pytest.fixture
def database(postgres: Postgres, request: pytest.FixtureRequest) -> str:
    """URL of a database that is empty."""
    name = "".join(c for c in request.node.name if c.isalnum())[-40:].lower()
    return postgres.create(name)


@pytest.fixture
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seconds instead of minutes until a worker counts as lost."""
    monkeypatch.setenv("BUSI_SEARCH_GRACE_SECONDS", "15")
