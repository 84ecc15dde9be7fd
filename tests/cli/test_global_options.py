from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from busi_search.cli import main
from busi_search.cli.base import exit_code_of
from busi_search.cli.global_options import GLOBAL_OPTIONS, GlobalOptions, global_options_of
from tests.command import call_here
from tests.test_cli import _commands

LEAVES = {name: command for name, command in _commands() if not isinstance(command, click.Group)}
WORDS = ["--home", "H", "--tracking-uri", "U", "--storage", "S", "--debug"]


def _needed(command: click.Command) -> list[str]:
    """The words without which a command is not understood."""
    words = []
    for parameter in command.params:
        if parameter.required:
            words += [parameter.opts[0], "1"] if isinstance(parameter, click.Option) else ["1"]
    return words


def _said(
    name: str, before: list[str], after: list[str], monkeypatch: pytest.MonkeyPatch
) -> GlobalOptions:
    """What the command would be told, typed with words before its name and after it."""
    told: list[GlobalOptions] = []
    command = LEAVES[name]

    def tell(**_options: object) -> None:
        told.append(global_options_of(click.get_current_context()))

    monkeypatch.setattr(command, "callback", tell)
    assert exit_code_of(main, [*before, *name.split(), *_needed(command), *after]) == 0
    (options,) = told
    return options


@pytest.mark.parametrize("name", LEAVES)
def test_before_and_after_the_name_mean_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for before, after in ((WORDS, []), ([], WORDS), (WORDS[:4], WORDS[4:])):
        said = _said(name, before, after, monkeypatch)
        assert (said.home, said.tracking_uri, said.storage, said.debug) == ("H", "U", "S", True)
    said = _said(name, ["--home", "A", "--storage", "B"], ["--home", "C"], monkeypatch)
    assert (said.home, said.storage) == ("C", "B")
    said = _said(name, [], [], monkeypatch)
    assert (said.home, said.tracking_uri, said.storage, said.debug) == ("mlruns", None, None, False)


@pytest.mark.parametrize("name", LEAVES)
def test_a_commands_own_options_have_other_names(name: str) -> None:
    taken = {word for option in GLOBAL_OPTIONS for word in (*option.opts, option.name)}
    for parameter in LEAVES[name].params:
        assert not taken & {*parameter.opts, *parameter.secondary_opts, parameter.name}


@pytest.mark.parametrize("name", ["", *(name for name, _ in _commands())])
def test_help_shows_them_below_a_heading_of_their_own(name: str) -> None:
    text = call_here(*name.split(), "--help").stdout
    own, shared = text.split("\nOptions:\n")[1].split("\nGlobal options:\n")
    shared = shared.split("\n\n")[0]
    for option in GLOBAL_OPTIONS:
        assert option.opts[0] in shared
        assert option.opts[0] not in own


def test_a_group_below_takes_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    command = LEAVES["data check"]
    monkeypatch.setattr(
        command,
        "callback",
        lambda **_: told.append(global_options_of(click.get_current_context()).home),
    )
    assert exit_code_of(main, ["--home", "A", "data", "--home", "B", "check", "1"]) == 0
    assert told == ["B"]


def test_words_come_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSI_SEARCH_HOME", "E1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "E2")
    monkeypatch.setenv("BUSI_SEARCH_STORAGE", "E3")
    said = _said("data check", [], [], monkeypatch)
    assert (said.home, said.tracking_uri, said.storage) == ("E1", "E2", "E3")
    said = _said("status", ["--home", "A"], ["--storage", "B"], monkeypatch)
    assert (said.home, said.tracking_uri, said.storage) == ("A", "E2", "B")


@pytest.fixture
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.usefixtures("_elsewhere")
def test_a_home_after_the_name_is_the_one_that_is_opened(tmp_path: Path) -> None:
    done = call_here("data", "check", "absent", "--home", tmp_path / "home")
    assert done.returncode == 2
    assert (tmp_path / "home").is_dir()


@pytest.mark.usefixtures("_elsewhere")
def test_debug_after_the_name_shows_the_traceback(tmp_path: Path) -> None:
    words = ["status", "absent", "--home", tmp_path / "home"]
    assert "Traceback" in call_here(*words, "--debug").stderr
    # A value that looks like the option is not the option.
    done = call_here("status", "--home", tmp_path / "home", "--", "--debug")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
