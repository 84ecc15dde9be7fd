"""The program before the rebuild, taken from the history, and how a program is run.

Nothing of it is kept as a file: the commit's tree is written into a temporary folder, and a process
with that folder in front of everything else on its path is the old program. The libraries and the
interpreter are those of the tests, so that only our own code differs.
"""

import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tarfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

# The last commit before the rebuild. To move it, see the docstring of test_nothing_changed.py.
COMMIT = "d6e7a7c83bc4c1e9b71c508257efbe077fe12396"
ROOT = Path(__file__).resolve().parents[2]
TYPED_LINES = Path(__file__).with_name("typed_lines.py")
SETTINGS_OF_THE_MACHINE = ("BUSI_SEARCH_HOME", "BUSI_SEARCH_STORAGE", "MLFLOW_TRACKING_URI")


@dataclass(frozen=True)
class Answer:
    """What a program answered to one line.

    Attributes:
        code: exit code.
        stdout, stderr: what it wrote.
    """

    code: int
    stdout: str
    stderr: str

    @property
    def result(self) -> Any:
        """The JSON object on stdout; None where there is nothing."""
        return json.loads(self.stdout) if self.stdout else None


def extract_old_program(folder: Path) -> Path:
    """Write the old program into a folder and return it; skip the test where that cannot be done.

    Its version is its own, too: a study that was begun with another version is not continued.
    """
    wanted = ["git", "-C", str(ROOT), "archive", "--format=tar", COMMIT]
    wanted += ["busi_search", "studies", "pyproject.toml"]
    try:
        archive = subprocess.run(wanted, check=True, capture_output=True, timeout=60).stdout
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error).encode()
        pytest.skip(
            f"commit {COMMIT[:7]}, the program before the rebuild, is not in this history "
            f"({said.decode(errors='replace').strip().splitlines()[-1]}); "
            "a whole clone has it: git fetch --unshallow"
        )
    with tarfile.open(fileobj=io.BytesIO(archive)) as files:
        files.extractall(folder, filter="data")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    metadata = folder / f"busi_search-{project['version']}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(
        f"Metadata-Version: 2.4\nName: busi-search\nVersion: {project['version']}\n",
        encoding="utf-8",
    )
    return folder


@dataclass(frozen=True)
class Typing:
    """A process of one program in which lines are typed.

    Attributes:
        lines: the lines by label, in the order in which they are typed.
        process: the process; it leads a group of its own, its workers included.
        folder: holds what it answers and, in ``errors.txt``, what its workers write to stderr.
    """

    lines: Mapping[str, Sequence[str]]
    process: "subprocess.Popen[bytes]"
    folder: Path

    def answers(self) -> dict[str, Answer]:
        """Return the answers so far, by label."""
        path = self.folder / "answers.jsonl"
        written = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [Answer(**json.loads(line)) for line in written]
        return dict(zip(self.lines, found, strict=False))

    def wait(self) -> dict[str, Answer]:
        """Return the answers to all lines."""
        self.process.wait(timeout=1200)
        assert self.process.returncode == 0, self.errors()
        return self.answers()

    def errors(self) -> str:
        """Return what went to stderr beside the answers: of workers, or why the process ended."""
        return (self.folder / "errors.txt").read_text(encoding="utf-8", errors="replace")


def start_typing(program: Path, lines: Mapping[str, Sequence[str]], place: Path) -> Typing:
    """Start a process of a program that types lines in a folder.

    Args:
        program: folder that holds the package ``busi_search``.
        lines: words after ``busi-search``, by a label of one's own.
        place: the folder to type them in; outside every repository.
    """
    place.mkdir(exist_ok=True)
    folder = place / f"typed-{len(list(place.glob('typed-*')))}"
    folder.mkdir()
    (folder / "lines.json").write_text(json.dumps(list(lines.values())), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k not in SETTINGS_OF_THE_MACHINE}
    with (folder / "errors.txt").open("wb") as errors:
        process = subprocess.Popen(
            # -P: nothing from the folder of the script or the working folder is imported.
            [sys.executable, "-P", TYPED_LINES, folder / "lines.json", folder / "answers.jsonl"],
            cwd=place,
            env=environment | {"PYTHONPATH": str(program)},
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
            start_new_session=True,
        )
    return Typing(lines, process, folder)


def end(typing: Typing) -> None:
    """End a program that is still at work, workers included; for tests that fail meanwhile."""
    if typing.process.poll() is None:
        os.killpg(typing.process.pid, signal.SIGKILL)
        typing.process.wait(timeout=300)


def type_lines(program: Path, lines: Mapping[str, Sequence[str]], place: Path) -> dict[str, Answer]:
    """Type lines into a program and return its answers, by label."""
    typing = start_typing(program, lines, place)
    try:
        return typing.wait()
    finally:
        end(typing)


def kill_within_a_trial(typing: Typing, database: Path, study: str, *, earliest: int) -> None:
    """Kill a program at once, workers included, while a trial is under way that has whole folds.

    Args:
        typing: a program whose last line searches the study.
        database: the Optuna storage of its home.
        study: name of the study.
        earliest: number of the first trial that may be the one.
    """

    def seen() -> bool:
        return any(number >= earliest for number in half_trials(database, study))

    group, deadline = typing.process.pid, time.monotonic() + 1200
    while True:
        assert typing.process.poll() is None, f"ended before it was killed: {typing.errors()}"
        assert time.monotonic() < deadline, f"no trial of {study} was seen under way"
        if seen():
            # What was seen may be over by now: look again while nothing moves.
            os.killpg(group, signal.SIGSTOP)
            if seen():
                break
            os.killpg(group, signal.SIGCONT)
        time.sleep(0.01)
    end(typing)


def half_trials(database: Path, study: str) -> dict[int, int]:
    """Return the RUNNING trials of a study that have finished folds: number -> folds.

    Read from SQLite itself, some hundred times a second.
    """
    question = (
        "SELECT trials.number, COUNT(*) FROM trials "
        "JOIN studies ON studies.study_id = trials.study_id "
        "JOIN trial_user_attributes AS attributes ON attributes.trial_id = trials.trial_id "
        "WHERE studies.study_name = ? AND trials.state = 'RUNNING' "
        "AND attributes.key GLOB 'fold[0-9]*' GROUP BY trials.trial_id"
    )
    if not database.exists():
        return {}
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True, timeout=60)
    try:
        return dict(connection.execute(question, (study,)).fetchall())
    except sqlite3.OperationalError:
        # Its tables are just being made.
        return {}
    finally:
        connection.close()
