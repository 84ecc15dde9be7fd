"""Options and completions that several commands share."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from busi_search.cli.global_options import global_options_of
from busi_search.cli.groups import load

DEVICE_OPTION = click.option(
    "--device",
    default="auto",
    show_default=True,
    help="auto, cpu, cuda (all GPUs of the machine) or cuda:K.",
)
JSON_OPTION = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object to stdout."
)


def complete_path(
    _ctx: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Let the shell complete the name of a file or folder, as it does elsewhere."""
    return [CompletionItem(begun, type="file")]


def complete_study(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete the name of a study of this home, without opening its stores."""
    folder = Path(global_options_of(ctx).home).expanduser() / "studies"
    try:
        return sorted(path.name for path in folder.iterdir() if path.name.startswith(begun))
    except OSError:
        return []


def complete_bundled(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete the name of a bundled study."""
    names = load("busi_search.study_files.list_bundled")()
    assert isinstance(names, list)
    return [name for name in names if name.startswith(begun)]


def complete_key(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete a key of a study file."""
    found = load("busi_search.spec.explanation.all_keys")()
    assert isinstance(found, list | tuple)
    return [entry.key for entry in found if entry.key.startswith(begun)]
