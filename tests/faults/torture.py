"""Kill the driver or a worker at random moments, type the same line again, compare.

    python -m tests.faults.torture --kills 50 --workers 1

With one worker the study must be the one that nobody disturbed, trial for trial and bit for bit.
Prints one JSON object with what was counted; an assertion fails where something was lost.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from mlflow import MlflowClient

from busi_search.home import Home, open_home
from busi_search.run import run_study
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.open import find_study, open_storage
from tests.command import BUSI_SEARCH, call_here
from tests.faults.checks import check_copy, check_storage, num_repeated_folds, watch_folds

STUDY = "quickstart-phantom"
TINY = ("epochs=2", "phantom_num_images=60", "num_folds=3", "architecture='small_cnn'",
        "image_size_pixels=28", "startup_trials=4")  # fmt: skip


@dataclass
class Figures:
    """What was done and what came of it."""

    workers: int
    kills: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    trials: int = 0
    folds: int = 0
    folds_stored_twice: int = 0
    identical_to_undisturbed: bool | None = None
    model_versions: int = 0
    seconds: float = 0.0


def line(home: Home, num_trials: int, workers: int) -> list[str]:
    """The words after ``busi-search``."""
    words = ["--home", str(home.root), "run", "--trials", str(num_trials), "--json", "--quiet"]
    words += ["--workers", str(workers), "--device", "cpu"]
    return [*words, *(word for override in TINY for word in ("--set", override))]


def launch(home: Home, num_trials: int, workers: int) -> subprocess.Popen[str]:
    """Type the line."""
    return subprocess.Popen(
        [*BUSI_SEARCH, *line(home, num_trials, workers)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def workers_of(driver: int) -> list[int]:
    """Return the workers of a driver that are alive: forked from the process that it started."""
    found = []
    try:
        for server in _children(driver):
            if b"multiprocessing.forkserver" in Path(f"/proc/{server}/cmdline").read_bytes():
                found += _children(server)
    except OSError:
        return []
    return found


def _children(process: int) -> list[int]:
    """Return the children of all threads of a process."""
    lists = [file.read_text() for file in Path(f"/proc/{process}/task").glob("*/children")]
    return [int(child) for text in lists for child in text.split()]


def strike(
    process: subprocess.Popen[str], whom: str, rng: random.Random, longest_gap: float
) -> bool:
    """Kill the driver or one of its workers at a random moment; False if it ended before that."""
    if whom == "driver":
        try:
            process.wait(timeout=rng.uniform(0.2, longest_gap))
        except subprocess.TimeoutExpired:
            process.kill()
            return True
        return False
    while process.poll() is None:
        if workers_of(process.pid):
            time.sleep(rng.uniform(0, min(1.0, longest_gap)))
            if victims := workers_of(process.pid):
                os.kill(rng.choice(victims), signal.SIGKILL)
                return True
        time.sleep(0.05)
    return False


def torture(
    home: Home, *, num_trials: int, num_kills: int, workers: int, seed: int, longest_gap: float
) -> Figures:
    """Search while processes are killed; check everything that was promised."""
    rng = random.Random(seed)
    figures = Figures(workers=workers)
    started = time.monotonic()
    open_storage(home)
    watch_folds(home.root / "optuna.db")
    process: subprocess.Popen[str] | None = None
    while figures.kills.total() < num_kills:
        if process is None:
            process = launch(home, num_trials, workers)
            figures.launches += 1
        whom = rng.choice(("driver", "worker"))
        if strike(process, whom, rng, longest_gap):
            figures.kills[whom] += 1
            if whom == "worker":
                continue
            process.communicate()
        else:
            _, stderr = process.communicate()
            assert process.returncode == 0 or "same command" in stderr, stderr
            if process.returncode == 0:
                num_trials += 10
        process = None
    if process is not None:
        process.kill()
        process.communicate()
    process = launch(home, num_trials, workers)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr
    # The same command again, on a study that has its trials.
    again = call_here(*line(home, num_trials, workers))
    assert again.returncode == 0, again.stderr
    figures.trials = num_trials
    figures.seconds = round(time.monotonic() - started, 1)
    check(home, json.loads(again.stdout), figures)
    return figures


def check(home: Home, result: dict, figures: Figures) -> None:
    """Fail where a trial or fold was lost, repeated, doubled or left open."""
    counts = result["trials"]
    assert counts["complete"] + counts["pruned"] == figures.trials
    assert counts["failed"] == 0
    check_storage(home, STUDY, figures.trials)
    check_copy(home, STUDY, figures.trials)
    figures.folds, figures.folds_stored_twice = num_repeated_folds(home.root / "optuna.db")
    assert figures.folds_stored_twice == 0
    versions = MlflowClient(home.tracking_uri, home.tracking_uri).search_model_versions(
        "name = 'busi-classifier-phantom'"
    )
    figures.model_versions = len(versions)
    (candidate,) = [v for v in versions if str(v.version) == result["model"]["version"]]
    assert candidate.tags["busi.trial"] == str(result["best"]["trial"])


def compare(home: Home, undisturbed: Home) -> bool:
    """Return whether two studies agree in every trial, fold and bit."""
    pairs = zip(
        find_study(home, STUDY).get_trials(), find_study(undisturbed, STUDY).get_trials(),
        strict=True,
    )  # fmt: skip
    for one, two in pairs:
        if (one.state, one.value, one.params) != (two.state, two.value, two.params):
            return False
        folds, others = stored_folds(one, 20), stored_folds(two, 20)
        if folds.keys() != others.keys():
            return False
        for index, fold in folds.items():
            if not np.array_equal(fold.log_probabilities, others[index].log_probabilities):
                return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--gap", type=float, default=12.0, help="longest time between two kills")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        home = open_home(Path(folder) / "home")
        figures = torture(
            home, num_trials=words.trials, num_kills=words.kills, workers=words.workers,
            seed=words.seed, longest_gap=words.gap,
        )  # fmt: skip
        if words.workers == 1:
            other = open_home(Path(folder) / "undisturbed")
            run_study(
                "quickstart", trials=figures.trials, home=other.root, overrides=TINY,
                device="cpu", inline=True,
            )  # fmt: skip
            figures.identical_to_undisturbed = compare(home, other)
        print(json.dumps(vars(figures)))
        assert figures.identical_to_undisturbed in (True, None)


if __name__ == "__main__":
    main()
