"""How many trials an hour several workers finish, on one storage file and over the network.

The same random trials, unpruned, searched by the installed command; counted from the first trial's
start to the last one's end. Alternating runs, medians and ratios to one worker with one thread.

    uv run python -m benchmarks.workers --data breastmnist.npz --runs 3
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from optuna.trial import FrozenTrial, TrialState

from benchmarks.start_up import trials_there
from busi_search.home import open_home
from busi_search.search.store.open import find_study
from tests.command import BUSI_SEARCH
from tests.topology.postgres import Postgres

# A worker pins itself to one thread: two are had only by not letting it.
TWO_THREADS = [
    sys.executable, "-c",
    "import torch; torch.set_num_threads(2); torch.set_num_threads = lambda _: None\n"
    "from busi_search.release import run\n"
    "from busi_search.search.executors import InlineExecutor\n"
    "run.ProcessExecutor = lambda **_: InlineExecutor()\n"
    "from busi_search.cli import command; command()",
]  # fmt: skip


def search(
    folder: Path, words: list[str], arm: str, postgres: Postgres | None, num_trials: int
) -> float:
    """Return trials an hour."""
    environment, storage = dict(os.environ), None
    if postgres is not None:
        storage = postgres.create(folder.name)
        environment["BUSI_SEARCH_STORAGE"] = storage
    command = TWO_THREADS if arm == "1 worker, 2 threads" else BUSI_SEARCH
    joins = arm.startswith("2 joined")
    workers = "0" if joins else arm.split(maxsplit=1)[0]
    with ExitStack() as stack:
        driver = subprocess.Popen(
            [*command, "--home", str(folder / "driver"), "run", *words, "--name", "workers",
             "--trials", str(num_trials),
             "--workers", workers, "--json", "--quiet"],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        stack.callback(driver.communicate)
        stack.callback(driver.terminate)
        helpers = []
        home = open_home(folder / "driver", storage=storage)
        while joins and len(helpers) < 2:
            try:
                find_study(home, "workers")
            except Exception:
                assert driver.poll() is None, driver.communicate()
                continue
            helper = subprocess.Popen(
                [*command, "--home", str(folder / f"h{len(helpers)}"), "worker", "workers",
                 "--workers", "1", "--quiet"], env=environment,
            )  # fmt: skip
            stack.callback(helper.wait)
            stack.callback(helper.terminate)
            helpers.append(helper)
        # What comes after the last trial is not what is measured.
        while num_ended(trials := trials_there(home, "workers")) < num_trials:
            assert driver.poll() is None, driver.communicate()
            time.sleep(2)
        assert all(trial.state == TrialState.COMPLETE for trial in trials)
    begun = min(t.datetime_start for t in trials if t.datetime_start)
    ended = max(t.datetime_complete for t in trials if t.datetime_complete)
    return 3600 * len(trials) / (ended - begun).total_seconds()


def num_ended(trials: list[FrozenTrial]) -> int:
    """Count the trials that have ended."""
    return sum(trial.state.is_finished() for trial in trials)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="quickstart")
    parser.add_argument("--data")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--local", action="store_true", help="leave out the database server")
    options = parser.parse_args()
    words = [options.study]
    if options.data:
        words += ["--data", options.data]
    for setting in ("pruner='none'", "sampler='random'", "recipes=[]", *options.settings):
        words += ["--set", setting]
    arms = ["1 worker, 1 thread", "1 worker, 2 threads", "2 workers"]
    if not options.local:
        arms.append("2 joined workers, PostgreSQL")
    found: dict[str, list[float]] = {arm: [] for arm in arms}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        server = None
        if not options.local:
            server = Postgres(Path(name) / "postgres", durable=True)
            server.start()
            stack.callback(server.stop)
        for run in range(options.runs):
            for index, arm in enumerate(arms):
                folder = Path(name) / f"run{run}arm{index}"
                postgres = server if arm.endswith("PostgreSQL") else None
                found[arm].append(search(folder, words, arm, postgres, options.trials))
                print(f"{arm}: {found[arm][-1]:.0f} trials/h", flush=True)
    base = statistics.median(found[arms[0]])
    for arm, rates in found.items():
        median = statistics.median(rates)
        spread = f"{min(rates):.0f} to {max(rates):.0f}"
        print(f"{arm:30} {median:7.0f} trials/h ({spread}), {median / base:.2f} of the first")


if __name__ == "__main__":
    main()
