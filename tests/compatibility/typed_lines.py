"""Runs inside one program: types several lines, one after the other, and notes every answer.

A process of its own per line would spend most of the test on imports. It imports nothing but the
program it is started for, whatever that has been called since.
"""

import contextlib
import io
import json
import os
import sys
from pathlib import Path


def type_line(words: list[str]) -> dict[str, object]:
    """Return exit code, stdout and stderr of one line."""
    from busi_search.cli import base, main

    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = None
    sys.argv = ["busi-search", *words]
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            # The old program's group leaves with an exit code; today a function returns it.
            if hasattr(base, "exit_code_of"):
                code = base.exit_code_of(main, words)
            else:
                main(words, prog_name="busi-search")
        except SystemExit as ended:
            code = ended.code
    return {"code": code, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}


def type_lines(lines: Path, answers: Path) -> None:
    """Type the lines of a JSON file; each answer is on disk before the next line is typed."""
    with answers.open("a", encoding="utf-8") as stream:
        for words in json.loads(lines.read_text(encoding="utf-8")):
            print(json.dumps(type_line(words)), file=stream, flush=True)


if __name__ == "__main__":
    type_lines(Path(sys.argv[1]), Path(sys.argv[2]))
    # As the command itself leaves: no seconds spent on garbage.
    os._exit(0)
