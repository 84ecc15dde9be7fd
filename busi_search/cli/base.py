"""What every command shares: the group, errors as one sentence, the home."""

import atexit
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from busi_search.cli.system_errors import system_error
from busi_search.errors import BusiSearchError, Interrupted
from busi_search.interrupts import interrupt

if TYPE_CHECKING:
    from busi_search.home import Home

JSON_OPTION = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")


class Commands(click.Group):
    """Turns errors into one sentence and an exit code; shows its commands in sections."""

    sections: Mapping[str, Sequence[click.Command]] = {}

    def add_sections(self, sections: Mapping[str, Sequence[click.Command]]) -> None:
        """Add commands, under headings, in the order in which people need them."""
        self.sections = sections
        for commands in sections.values():
            for command in commands:
                self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every section with the first sentence of each command."""
        for heading, commands in self.sections.items():
            rows = [(str(command.name), command.get_short_help_str(60)) for command in commands]
            with formatter.section(heading):
                formatter.write_dl(rows)

    def main(self, args: Sequence[str] | None = None, **extra: Any) -> Any:  # type: ignore[override]
        """Run the command line and leave with the exit code of what happened."""
        extra["standalone_mode"] = False
        try:
            super().main(args, **extra)
        except click.ClickException as error:
            error.show()
            sys.exit(2 if error.exit_code in (1, 2) else error.exit_code)
        except (click.Abort, KeyboardInterrupt) as error:
            # click turns an interrupt into an Abort of its own.
            cause = error.__cause__ if isinstance(error, click.Abort) else error
            _fail(cause if isinstance(cause, Interrupted) else Interrupted("Interrupted."))
        except BusiSearchError as error:
            _fail(error)
        except BrokenPipeError:
            os._exit(0)
        except Exception as error:
            if _debug():
                raise
            _fail(system_error(error))
        sys.exit(0)


def run_and_leave(command: Callable[[], object]) -> None:
    """Run the command line in a process of its own, and end it once all has been said and done.

    Python would look for garbage in everything that was imported: two seconds, with PyTorch and
    MLflow, in which a user waits for the prompt.
    """
    code = 1

    def leave() -> None:
        # The first to be registered is the last to be called: threads have ended, hooks have run.
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)
    try:
        command()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise


def _debug() -> bool:
    return "--debug" in sys.argv


def _fail(error: BusiSearchError | Interrupted) -> NoReturn:
    if _debug():
        import traceback

        traceback.print_exc()
    label = "" if isinstance(error, Interrupted) else "Error: "
    # One line, whatever a file name or a library put into it.
    sentence = "".join(c if c.isprintable() else " " for c in f"{label}{error}")
    click.echo(sentence, err=True)
    sys.exit(error.exit_code)


def print_json(value: Any) -> None:
    """Write one JSON object to stdout."""
    click.echo(json.dumps(value, ensure_ascii=False))


def home_of(ctx: click.Context) -> "Home":
    """Return the home that the global options name."""
    from busi_search.home import open_home

    options = ctx.find_root().params
    return open_home(
        options["home"], tracking_uri=options["tracking_uri"], storage=options["storage"]
    )


def complete_study(ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete the name of a study of this home, without opening its stores."""
    home = ctx.find_root().params.get("home") or os.environ.get("BUSI_SEARCH_HOME") or "mlruns"
    folder = Path(home).expanduser() / "studies"
    try:
        return sorted(path.name for path in folder.iterdir() if path.name.startswith(begun))
    except OSError:
        return []


def complete_bundled(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    """Complete the name of a bundled study."""
    from busi_search.study_files import list_bundled

    return [name for name in list_bundled() if name.startswith(begun)]


def on_stop(name: Callable[[], str]) -> None:
    """The first Ctrl-C or SIGTERM winds down and says how to resume; a second leaves at once.

    A write that is under way ends first.
    """

    def stop(_signal: int, _frame: Any) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
        interrupt(Interrupted(name()))

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
