import importlib
import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from busi_search.cli import main
from busi_search.cli.groups import Command, Group, load
from tests.command import call_here
from tests.test_cli import _commands

HEAVY = ("torch", "mlflow", "optuna", "sklearn", "numpy", "pydantic", "rich")
ROWS = {row.name: row for rows in main.sections.values() for row in rows}
LEAVES = {name: command for name, command in _commands() if not isinstance(command, click.Group)}


def _imported(code: str, **environment: str) -> list[str]:
    """Return which modules are there after the code has run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint('\\n' + ' '.join(sys.modules))"],
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )
    return done.stdout.splitlines()[-1].split()


def _ask(*words: str) -> str:
    return (
        "from busi_search.cli import main\n"
        f"try: main({list(words)}, prog_name='busi-search')\nexcept SystemExit: pass"
    )


def test_the_groups_help_imports_no_command() -> None:
    there = _imported(_ask("--help"))
    assert not {*HEAVY, "multiprocessing"} & {*there}
    assert not {row.module for row in ROWS.values()} & {*there}


def test_no_commands_help_imports_what_the_command_needs() -> None:
    code = "\n".join(_ask(*name.split(), "--help") for name, _ in _commands())
    there = _imported(code)
    assert {row.module for row in ROWS.values()} <= {*there}
    assert not {*HEAVY} & {*there}
    assert not [name for name in there if name.startswith("busi_search.cli.actions")]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("busi-search s", "studies status serve sync"),
        ("busi-search --home {home} status ", "my-study"),
        ("busi-search status --home {home} my", "my-study"),
        ("busi-search --home elsewhere status --home {home} ", "my-study"),
        ("busi-search status --ho", "--home"),
        ("busi-search data ch", "check"),
    ],
)
def test_a_word_is_completed_without_heavy_imports(
    typed: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "studies" / "my-study").mkdir(parents=True)
    typed = typed.format(home=tmp_path)
    code = (
        "import contextlib, io\nsaid = io.TextIOWrapper(io.BytesIO(), encoding='utf-8')\n"
        "with contextlib.redirect_stdout(said):\n"
        + "".join(f"    {line}\n" for line in _ask().splitlines())
        + "said.flush()\nfound = said.buffer.getvalue().decode().split()\n"
        f"assert found == {[f'plain,{name}' for name in expected.split()]}, found"
    )
    there = _imported(
        code,
        _BUSI_SEARCH_COMPLETE="bash_complete",
        COMP_WORDS=typed,
        COMP_CWORD=str(len(typed.split(" ")) - 1),
    )
    assert not {*HEAVY} & {*there}


def test_bundled_studies_are_completed_without_the_seconds_of_torch() -> None:
    environment = {
        "_BUSI_SEARCH_COMPLETE": "bash_complete",
        "COMP_WORDS": "busi-search run quick",
        "COMP_CWORD": "2",
    }
    there = _imported(_ask(), **environment)
    assert "busi_search.study_files" in there
    assert not {"torch", "mlflow", "optuna", "numpy"} & {*there}


@pytest.mark.parametrize("name", ROWS)
def test_the_table_agrees_with_the_command(name: str) -> None:
    command = dict(_commands())[name]
    assert isinstance(command, Command | Group), "takes the global options"
    assert command.name == name
    shown = ROWS[name].short_help
    assert shown.endswith(".")
    assert len(shown) <= 60
    assert command.get_short_help_str(60) == shown


def test_help_shows_every_command_in_its_section() -> None:
    text = call_here("--help").stdout
    for heading, rows in main.sections.items():
        section = text.split(f"\n{heading}:\n")[1].split("\n\n")[0]
        lines = [line.strip().split("  ", 1) for line in section.splitlines()]
        assert [(name, help_text.strip()) for name, help_text in lines] == [
            (row.name, row.short_help) for row in rows
        ]


def test_the_nearest_command_is_suggested() -> None:
    done = call_here("staus")
    assert done.returncode == 2
    assert "'status'" in done.stderr


def _names(action: object) -> Iterator[str]:
    """Names that a function takes; those that come together stand in a table of types."""
    assert callable(action)
    for name, parameter in inspect.signature(action).parameters.items():
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD:
            yield name
            continue
        (table,) = typing.get_args(parameter.annotation)
        yield from table.__annotations__


@pytest.mark.parametrize("name", LEAVES)
def test_a_command_hands_its_options_to_a_function_that_takes_them(name: str) -> None:
    command = LEAVES[name]
    assert command.callback is not None
    captured = inspect.getclosurevars(command.callback).nonlocals
    if "path" in captured:
        context, *parameters = _names(load(captured["path"]))
        assert context == "ctx"
        assert sorted(parameters) == sorted(str(p.name) for p in command.params if p.expose_value)


def test_every_action_is_a_commands() -> None:
    """No function is left behind when a command goes."""
    package = importlib.import_module("busi_search.cli.actions")
    found = set()
    for file in Path(package.__path__[0]).glob("*.py"):
        if file.stem in ("__init__", "shared", "refresh"):
            continue
        module = importlib.import_module(f"{package.__name__}.{file.stem}")
        found |= {
            f"{module.__name__}.{name}"
            for name, function in inspect.getmembers(module, inspect.isfunction)
            if function.__module__ == module.__name__ and not name.startswith("_")
        }
    paths = {inspect.getclosurevars(c.callback).nonlocals.get("path") for c in LEAVES.values()}
    assert found <= paths
