"""Long reading says how far it has come, on stderr, and not where quiet is asked for."""

import pytest

from busi_search.cli.actions import shared
from busi_search.cli.actions.shared import slow_reading
from busi_search.data.progress import counted


def test_progress_is_said_on_stderr(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "SECONDS_BETWEEN_LINES", 0.0)
    for quiet in (True, False):
        with slow_reading(quiet=quiet):
            assert list(counted("abc", "images read", 3)) == ["a", "b", "c"]
        said = capsys.readouterr()
        assert said.out == ""
        assert ("3 of 3 images read" in said.err) is not quiet


def test_nothing_is_said_of_what_is_quick(capsys: pytest.CaptureFixture[str]) -> None:
    with slow_reading():
        list(counted("abc", "images read", 3))
    assert capsys.readouterr().err == ""
