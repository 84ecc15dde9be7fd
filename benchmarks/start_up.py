"""How long a user waits for the first sign of life, and for the end after Ctrl-C.

Medians of several runs of the installed command, each after one that is not counted: the help, the
status of a finished search, the time from the command to the start of a new study's first trial
in a home that has its tables and caches, and from Ctrl-C in the midst of a search to the end of the
command and its output.

    uv run python -m benchmarks.start_up --data breastmnist.npz --study breastmnist
"""

import argparse
import datetime as dt
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from optuna.trial import FrozenTrial

from busi_search.errors import InputError
from busi_search.home import Home, open_home
from busi_search.search.store.open import find_study
from tests.command import BUSI_SEARCH


def run(*words: str) -> float:
    """Return the seconds that the command takes."""
    started = time.perf_counter()
    subprocess.run([*BUSI_SEARCH, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def first_trial(folder: Path, name: str, words: list[str]) -> float:
    """Return the seconds from the command to the start of the first trial."""
    begun = dt.datetime.now()
    run("--home", str(folder), "run", *words, "--name", name, "--trials", "1", "--quiet")
    (trial,) = find_study(open_home(folder), name).get_trials(deepcopy=False)
    assert trial.datetime_start is not None
    return (trial.datetime_start - begun).total_seconds()


def stop(folder: Path, name: str, words: list[str]) -> float:
    """Return the seconds from Ctrl-C to the end of a search and of what it writes."""
    words = ["--home", str(folder), "run", *words, "--name", name, "--trials", "100", "--quiet"]
    with subprocess.Popen(
        [*BUSI_SEARCH, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        while not trials_there(open_home(folder), name):
            assert process.poll() is None, process.communicate()
            time.sleep(0.2)
        time.sleep(3)
        started = time.perf_counter()
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 130
        return time.perf_counter() - started


def trials_there(home: Home, name: str) -> list[FrozenTrial]:
    """Return a study's trials, none as long as there is no study."""
    try:
        return find_study(home, name).get_trials(deepcopy=False)
    except InputError:
        return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--data")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    # Trials that are short: only their beginning counts.
    words = [options.study, "--weights", "none"]
    for setting in (
        "epochs=1",
        "num_folds=2",
        "architecture='small_cnn'",
        "recipes=[]",
        "recipe=[]",
    ):
        words += ["--set", setting]
    if options.data:
        words += ["--data", options.data]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = ["--home", str(folder)]
        # In this order: the first study makes the home's tables and fills its caches.
        calls: dict[str, Callable[[int], float]] = {
            "first trial of a new study": lambda index: first_trial(folder, f"s{index}", words),
            "end after Ctrl-C": lambda index: stop(folder, f"e{index}", words),
            "status": lambda _: run(*home, "status", "s0"),
            "--help": lambda _: run("--help"),
        }
        found = {
            what: [call(index) for index in range(options.runs + 1)][1:]
            for what, call in calls.items()
        }
    for what, seconds in found.items():
        print(
            f"{what:28s} {statistics.median(seconds):5.2f} s"
            f" ({min(seconds):.2f} to {max(seconds):.2f})"
        )


if __name__ == "__main__":
    main()
