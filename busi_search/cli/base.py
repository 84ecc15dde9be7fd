"""How a command line ends: errors as one sentence, exit codes, Ctrl-C."""

import atexit
import contextlib
import io
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from types import FrameType

import click

from busi_search.cli.global_options import GlobalOptions, global_options_of, json_text
from busi_search.cli.system_errors import system_error
from busi_search.errors import BusiSearchError, Interrupted
from busi_search.interrupts import interrupt


def exit_code_of(group: click.Group, words: Sequence[str] | None = None) -> int:
    """Run a command line, say an error in one sentence, and return the exit code.

    Args:
        group: of all commands.
        words: what is typed after the program's name (default: what this process was given).
    """
    given = GlobalOptions(words=tuple(sys.argv[1:] if words is None else words))
    try:
        group.main(words, prog_name="busi-search", standalone_mode=False, obj=given)
    except click.ClickException as error:
        error.show()
        _say_in_json(error.format_message(), given)
        return 2 if error.exit_code in (1, 2) else error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns an interrupt into an Abort of its own.
        cause = error.__cause__ if isinstance(error, click.Abort) else error
        ended = cause if isinstance(cause, Interrupted) else Interrupted("Interrupted.")
        return _say(ended, given)
    except BusiSearchError as error:
        return _say(error, given)
    except BrokenPipeError:
        os._exit(0)
    except Exception as error:
        if given.debug:
            raise
        return _say(system_error(error), given)
    return 0


def _say(error: BusiSearchError | Interrupted, given: GlobalOptions) -> int:
    if given.debug:
        traceback.print_exc()
    label = "" if isinstance(error, Interrupted) else "Error: "
    # One line, whatever a file name or a library put into it.
    sentence = "".join(c if c.isprintable() else " " for c in f"{label}{error}")
    click.echo(sentence, err=True)
    _say_in_json(sentence.removeprefix("Error: "), given)
    return error.exit_code


def _say_in_json(sentence: str, given: GlobalOptions) -> None:
    """Answer a program, too, that asked for JSON and got none yet."""
    words = given.words[: given.words.index("--")] if "--" in given.words else given.words
    if "--json" in words and not given.answered:
        given.answered = True
        click.echo(json_text({"error": sentence}))


def write_any_text() -> None:
    """Let no character that the terminal or file cannot hold end a command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def run_and_leave(command: Callable[[], int]) -> None:
    """Run the command line in a process of its own, and end it once all has been said and done.

    Python would look for garbage in everything that was imported: two seconds, with PyTorch and
    MLflow, in which a user waits for the prompt.

    Args:
        command: returns the exit code.
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
        code = command()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise


def on_stop(name: Callable[[], str]) -> None:
    """The first Ctrl-C or SIGTERM winds down and says how to resume; a second leaves at once.

    A write that is under way ends first.
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(130))
        interrupt(Interrupted(name()))

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def typed_command() -> str:
    """Return what people type to run this program: in a container, that begins with its engine."""
    return os.environ.get("BUSI_SEARCH_COMMAND") or "busi-search"


def on_stop_resume(ctx: click.Context, what: str) -> None:
    """As :func:`on_stop`: ``what`` is saved, and the same command resumes it."""
    words = shlex.join(global_options_of(ctx).words)
    on_stop(lambda: f"Interrupted; {what} is saved. Resume: {typed_command()} {words}")
