"""The options of every command: accepted before its name and after it."""

import json
import sys
from dataclasses import dataclass

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem


@dataclass
class GlobalOptions:
    """What the global options say, as far as the command line has been read.

    Attributes:
        home: folder of the stores, artifacts and caches.
        tracking_uri: of MLflow; None means the database in the home.
        storage: URL of Optuna's storage; None means the database in the home.
        debug: show tracebacks.
        words: the command line as it was typed, without the program's name.
        answered: whether the one JSON object of the command was written.
    """

    home: str = "mlruns"
    tracking_uri: str | None = None
    storage: str | None = None
    debug: bool = False
    words: tuple[str, ...] = ()
    answered: bool = False


def global_options_of(ctx: click.Context) -> GlobalOptions:
    """Return what the global options say, wherever they stand on this command line."""
    return ctx.ensure_object(GlobalOptions)


def json_text(value: object) -> str:
    """Return JSON that is text in every encoding where this one would not be.

    A file name in another encoding than UTF-8 has no characters of its own; its bytes stand in
    escapes, as for a terminal or file that does not hold all characters.
    """
    text = json.dumps(value, ensure_ascii=False)
    encoding = str(getattr(sys.stdout, "encoding", None) or "utf-8")
    try:
        text.encode("utf-8")
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return json.dumps(value)
    # In another encoding its bytes would not be JSON, which is UTF-8.
    return text if encoding.lower().replace("-", "") == "utf8" else json.dumps(value)


def _keep(ctx: click.Context, option: click.Parameter, value: str | bool | None) -> None:
    """Keep a value; after the command's name, only one that is typed there."""
    assert option.name is not None, "a global option has a name"
    typed = ctx.get_parameter_source(option.name) is ParameterSource.COMMANDLINE
    # While a shell completes a word, defaults may come as None.
    if typed or (ctx.parent is None and value is not None):
        setattr(global_options_of(ctx), option.name, value)


GLOBAL_OPTIONS = (
    click.Option(
        ["--home"],
        metavar="DIR",
        shell_complete=lambda _ctx, _parameter, begun: [CompletionItem(begun, type="dir")],
        envvar="BUSI_SEARCH_HOME",
        default="mlruns",
        show_default=True,
        help="Folder of the stores, artifacts and caches.",
        expose_value=False,
        callback=_keep,
    ),
    click.Option(
        ["--tracking-uri"],
        envvar="MLFLOW_TRACKING_URI",
        help="MLflow store or server.",
        expose_value=False,
        callback=_keep,
    ),
    click.Option(
        ["--storage"],
        envvar="BUSI_SEARCH_STORAGE",
        help="Optuna storage URL.",
        expose_value=False,
        callback=_keep,
    ),
    click.Option(
        ["--debug"], is_flag=True, help="Show tracebacks.", expose_value=False, callback=_keep
    ),
)


def write_options(
    command: click.Command, ctx: click.Context, formatter: click.HelpFormatter
) -> None:
    """Write a command's own options, then the global ones, each under its heading."""
    options = [p for p in command.get_params(ctx) if isinstance(p, click.Option)]
    sections = {
        "Options": [option for option in options if option not in GLOBAL_OPTIONS],
        "Global options": [option for option in options if option in GLOBAL_OPTIONS],
    }
    for heading, shown in sections.items():
        records = [option.get_help_record(ctx) for option in shown]
        with formatter.section(heading):
            formatter.write_dl([record for record in records if record is not None])
