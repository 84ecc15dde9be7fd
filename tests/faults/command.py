"""The command line in this process, so that thousands of calls are affordable."""

import contextlib
import io
import signal
from dataclasses import dataclass

from busi_search.cli import main


@dataclass(frozen=True)
class Answer:
    """What a user sees."""

    code: int
    stdout: str
    stderr: str


def call_here(*words: object) -> Answer:
    """Type a line; handlers that a command installs are taken away again."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    stdout, stderr = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            main([str(word) for word in words])
    except SystemExit as leaving:
        code = leaving.code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert isinstance(code, int)
    return Answer(code, stdout.getvalue(), stderr.getvalue())


def one_sentence(answer: Answer) -> bool:
    """Return whether the answer is one line of text, without a traceback."""
    lines = answer.stderr.strip().splitlines()
    return len(lines) == 1 and "Traceback" not in answer.stderr and answer.stdout == ""
