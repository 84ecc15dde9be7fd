"""The command line, as a process of its own or, where that makes no difference, in this one."""

import contextlib
import io
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

from busi_search.cli import main
from busi_search.cli.base import exit_code_of

BUSI_SEARCH = [sys.executable, "-c", "from busi_search.cli import command; command()"]


def call(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a user does."""
    return subprocess.run(
        [*BUSI_SEARCH, *map(str, words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
    )


def call_here(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command without the seconds that a new process takes to import what it needs."""
    typed = [str(word) for word in words]
    stdout, stderr = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd or Path.cwd()),
        # Commands answer Ctrl-C in their own way; the tests keep theirs.
        patch.object(signal, "signal", lambda *_: None),
        contextlib.redirect_stdout(stdout),
        contextlib.redirect_stderr(stderr),
    ):
        code = exit_code_of(main, typed)
    return subprocess.CompletedProcess(typed, code, stdout.getvalue(), stderr.getvalue())


def one_sentence(answer: subprocess.CompletedProcess[str]) -> bool:
    """Return whether the answer is one line of text, without a traceback."""
    lines = answer.stderr.strip().splitlines()
    return len(lines) == 1 and "Traceback" not in answer.stderr and answer.stdout == ""
