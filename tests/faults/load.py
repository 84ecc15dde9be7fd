"""Two thousand tiny trials with four workers on one home: none lost, none twice, memory flat.

python -m tests.faults.load --trials 2000 --workers 4
"""

import argparse
import json
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

from mlflow import MlflowClient

from busi_search.home import open_home
from busi_search.search.store.open import find_study
from tests.command import BUSI_SEARCH

SETTINGS = ("phantom_num_images=60", "num_folds=2", "epochs=1", "image_size_pixels=16",
            "architecture='small_cnn'", "sampler='random'", "pruner='none'",
            "recipes=[]")  # fmt: skip


def _resident_mib(process: int) -> float:
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *BUSI_SEARCH, "--home", folder, "run", "quickstart", "--name", "load",
            "--trials", str(options.trials), "--workers", str(options.workers), "--json",
        ]  # fmt: skip
        for setting in SETTINGS:
            command += ["--set", setting]
        started = time.monotonic()
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        memory: list[tuple[float, float]] = []
        while driver.poll() is None:
            memory.append((time.monotonic() - started, _resident_mib(driver.pid)))
            time.sleep(5)
        assert driver.stdout is not None
        result = json.loads(driver.stdout.read())
        seconds = time.monotonic() - started
        home = open_home(folder)
        trials = find_study(home, "load").get_trials(deepcopy=False)
        states = Counter(trial.state.name for trial in trials)
        client = MlflowClient(home.tracking_uri)
        numbers: list[int] = []
        token = None
        while True:
            page = client.search_runs(
                [result["experiment_id"]], "tags.`busi.kind` = 'trial'",
                max_results=1000, page_token=token,
            )  # fmt: skip
            numbers += [int(run.data.tags["optuna.number"]) for run in page]
            token = page.token
            if not token:
                break
        print(f"{seconds:.0f} s, {len(trials) / seconds:.1f} trials a second")
        print(f"states {dict(states)}; numbers without gap: "
              f"{[t.number for t in trials] == list(range(len(trials)))}")  # fmt: skip
        print(f"runs in MLflow {len(numbers)}, of them different {len(set(numbers))}")
        for share in (0.1, 0.3, 0.5, 0.7, 0.9):
            moment, size = memory[int(share * (len(memory) - 1))]
            print(f"driver after {moment:.0f} s: {size:.0f} MiB")


if __name__ == "__main__":
    main()
