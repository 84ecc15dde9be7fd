"""The line for Slurm, as the page has it, given to an `sbatch` that runs the script here."""

import os
import re
import shlex
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from busi_search.home import open_home
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord
from tests.command import BUSI_SEARCH, call_here

PAGE = Path(__file__).parents[2] / "docs/how-to/containers-and-clusters.md"
# Does what Slurm does with the array: each task runs the script in a shell of its own, with its
# number. The first task reaches its time limit: the signal that was asked for, to the script alone.
SBATCH = """#!{python}
import argparse, os, re, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
for option in ("array", "gpus", "cpus-per-task", "time", "signal", "wrap"):
    parser.add_argument("--" + option, required=True)
parser.add_argument("--requeue", action="store_true", required=True)
words = parser.parse_args()
first, last = map(int, words.array.split("-"))
assert re.fullmatch(r"\\d+:\\d\\d:\\d\\d", words.time) and int(words.gpus) == 1
wanted = re.fullmatch(r"B:TERM@(\\d+)", words.signal)
tasks = [
    subprocess.Popen(
        ["sh", "-c", words.wrap], env={{**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}}
    )
    for number in range(first, last + 1)
]
while not os.path.exists(os.environ["LIMIT_FILE"]):
    time.sleep(0.1)
tasks[0].send_signal(signal.SIGTERM)
codes = [task.wait(timeout=100) for task in tasks]
print(codes)
sys.exit(0 if codes[0] in (0, 130) and not any(codes[1:]) else 1)
"""


def _line() -> list[str]:
    text = re.sub(r"\\\n\s*", " ", PAGE.read_text())
    (line,) = re.findall(r"^ {4}(sbatch .+)$", text, re.MULTILINE)
    return shlex.split(line)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_array_of_workers_finishes_the_study_though_one_reaches_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = ("epochs=2", "num_folds=3", "image_size_pixels=28", "recipes=[]",
                 "phantom_num_images=90", "space.architecture=['small_cnn']")  # fmt: skip
    begun = call_here(
        "--home", tmp_path / "home", "run", "quickstart", "--name", "busi", "--trials", "1",
        "--workers", "1", "--device", "cpu", *(w for o in overrides for w in ("--set", o)),
    )  # fmt: skip
    assert begun.returncode == 0, begun.stderr
    home = open_home(tmp_path / "home")
    StudyRecord(find_study(home, "busi")).set_target(6)
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (
        ("sbatch", SBATCH.format(python=sys.executable)),
        ("busi-search", f'#!/bin/sh\nexec {shlex.join(map(str, BUSI_SEARCH))} "$@"\n'),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("BUSI_SEARCH_HOME", str(home.root))
    limit = tmp_path / "time is over"
    monkeypatch.setenv("LIMIT_FILE", str(limit))
    words = [
        # Two tasks, no GPU, and phantoms instead of a folder of images.
        "--array=1-2" if word.startswith("--array") else word
        for word in _line()
    ]
    script = words[-1]
    assert script.startswith("exec busi-search worker busi ")
    words[-1] = script.replace(" --data $HOME/busi", "").replace("--device cuda", "--device cpu")
    assert words[-1] != script
    words[-1] += " --workers 1 --quiet"
    done = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 100
    while len(find_study(home, "busi").get_trials(deepcopy=False)) < 3:
        assert done.poll() is None, done.communicate()
        assert time.monotonic() < deadline, "no task began a trial"
        time.sleep(0.1)
    limit.touch()
    said, _ = done.communicate(timeout=120)
    assert done.returncode == 0, said
    trials = find_study(home, "busi").get_trials(deepcopy=False)
    states = {trial.state for trial in trials}
    assert len(trials) == 6
    assert states <= {TrialState.COMPLETE, TrialState.PRUNED}
