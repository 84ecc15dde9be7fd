"""The line for Slurm, as the page has it, given to an `sbatch` that runs the script here."""

import os
import re
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from optuna.trial import TrialState

from busi_search.home import Home
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.store.open import find_study
from tests.command import BUSI_SEARCH

PAGE = Path(__file__).parents[2] / "docs/how-to/containers-and-clusters.md"
SMALL = ("epochs=8", "num_folds=3", "image_size_pixels=28", "recipes=[]", "pruner='none'",
         "phantom_num_images=90", "space.architecture=['small_cnn']")  # fmt: skip
# Does what Slurm does with the array where there is room for one task at a time: each runs the
# script in a shell of its own, with its number. The first task reaches its time limit: the signal
# that was asked for, to the script alone. Prints the tasks' exit codes.
SBATCH = """#!{python}
import argparse, os, re, signal, subprocess, sys, time
parser = argparse.ArgumentParser()
for option in ("array", "gpus", "cpus-per-task", "time", "signal", "wrap"):
    parser.add_argument("--" + option, required=True)
parser.add_argument("--requeue", action="store_true", required=True)
words = parser.parse_args()
first, last = map(int, words.array.split("-"))
assert re.fullmatch(r"\\d+:\\d\\d:\\d\\d", words.time) and int(words.gpus) == 1
assert re.fullmatch(r"B:TERM@(\\d+)", words.signal)
codes = []
for number in range(first, last + 1):
    task = subprocess.Popen(
        ["sh", "-c", words.wrap], env={{**os.environ, "SLURM_ARRAY_TASK_ID": str(number)}}
    )
    while number == first and task.poll() is None:
        if os.path.exists(os.environ["LIMIT_FILE"]):
            task.send_signal(signal.SIGTERM)
            break
        time.sleep(0.05)
    codes.append(task.wait())
print(codes)
"""


def _line() -> list[str]:
    text = re.sub(r"\\\n\s*", " ", PAGE.read_text())
    (line,) = re.findall(r"^ {4}(sbatch .+)$", text, re.MULTILINE)
    return shlex.split(line)


def _line_of_this_machine() -> list[str]:
    """The page's line for two tasks, without a GPU, and phantoms instead of a folder of images."""
    *words, script = [
        "--array=1-2" if word.startswith("--array") else word for word in _line()
    ]  # fmt: skip
    assert script.startswith("exec busi-search worker busi ")
    on_cpu = script.replace(" --data $HOME/busi", "").replace("--device cuda", "--device cpu")
    assert on_cpu != script
    return [*words, f"{on_cpu} --workers 1 --quiet"]


@pytest.mark.slow
@pytest.mark.exhaustive
def test_an_array_of_workers_finishes_the_study_though_one_reaches_its_limit(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, limit = tmp_path / "bin", tmp_path / "time is over"
    folder.mkdir()
    for name, text in (
        ("sbatch", SBATCH.format(python=sys.executable)),
        ("busi-search", f'#!/bin/sh\nexec {shlex.join(map(str, BUSI_SEARCH))} "$@"\n'),
    ):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755 | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("BUSI_SEARCH_HOME", str(home.root))
    monkeypatch.setenv("LIMIT_FILE", str(limit))
    context = prepare_study("quickstart", home=home, name="busi", overrides=SMALL, device="cpu")
    # The search itself, as `busi-search run … --workers 0` does it.
    search = run_search(
        context, InlineExecutor(), Tracker(context), num_trials=4, num_workers=0,
        timeout_seconds=600,
    )  # fmt: skip
    next(search)
    queue = subprocess.Popen(
        _line_of_this_machine(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    ended = False
    try:
        for progress in search:
            assert not ended or progress.finished == 4, queue.communicate()
            ended = queue.poll() is not None
            if progress.running:
                limit.touch()
        said, _ = queue.communicate(timeout=600)
    finally:
        search.close()
        queue.kill()
    assert said.strip().splitlines()[-1] == "[130, 0]", said
    trials = find_study(home, "busi").get_trials(deepcopy=False)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
