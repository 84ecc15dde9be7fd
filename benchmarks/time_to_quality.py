"""How long until a search is as good as the plain script's whole search.

Both get the same images, grouped folds, space, epochs and number of trials. The plain script is
``benchmarks/plain.py`` with Optuna's MedianPruner, timed from its first trial. This one is the
installed command with two workers and its own pruner, timed from the start of the command, so
imports and the reading of images count. A score is the mean AUC of a trial that was not pruned.
The best of 60 trials is a matter of luck too: this one may take more trials to reach it, and is
stopped there, or when it has taken as long as the plain script's whole search.

    uv run python -m benchmarks.time_to_quality --source medmnist --data breastmnist.npz --size 28
"""

import argparse
import datetime as dt
import math
import signal
import sqlite3
import statistics
import subprocess
import tempfile
import time
from contextlib import closing
from pathlib import Path

import torch
from PIL import Image

from benchmarks import plain
from busi_search.home import open_home
from busi_search.search.context import StudyContext
from busi_search.search.prepare import prepare_study
from tests.command import BUSI_SEARCH

Curve = list[tuple[float, float]]

# More than can be had in the time.
MOST_TRIALS = 10_000

# The plain script's space (see plain.search) and its augmentation: flip, affine, colour.
STUDY = """
[study]
seed = {seed}
sampler = "{sampler}"
recipes = []

[dataset]
source = "{source}"
path = "{data}"
image_size_pixels = {size}
{test}

[hyperparameters]
epochs = {epochs}
gain_slope = 0.0
speckle = 0.0
erasing = 0.0

[space]
architecture = {architectures}
learning_rate = {{ low = 1e-4, high = 3e-2, log = true }}
weight_decay = {{ low = 1e-4, high = 1e-1, log = true }}
dropout = {{ low = 0.0, high = 0.6 }}
batch_size = [16, 32, 64]
augmentation_strength = {{ low = 0.0, high = 1.0 }}
"""


def write_study(folder: Path, options: argparse.Namespace, seed: int) -> Path:
    """Write the study file of one seed."""
    path = folder / f"seed{seed}.toml"
    path.write_text(
        STUDY.format(
            seed=seed,
            sampler=options.sampler,
            source=options.source,
            data=Path(options.data).resolve(),
            size=options.size,
            test='test = "official"' if options.source == "medmnist" else "",
            epochs=options.epochs,
            architectures=options.architectures.split(","),
        )
    )
    return path


def files_of(context: StudyContext, folder: Path, data: str) -> list[Path]:
    """The development images as files: BUSI's own, BreastMNIST's written as PNG."""
    development = context.development
    if (Path(data) / development.paths[0]).is_file():
        return [Path(data) / path for path in development.paths]
    images = context.images(context.spec.dataset.image_size_pixels)
    paths = [folder / f"{index}.png" for index in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    return paths


def search_plain(
    context: StudyContext, folder: Path, options: argparse.Namespace, seed: int
) -> Curve:
    """Return (seconds, best so far) after every trial of the plain script."""
    torch.set_num_threads(2)
    items: list[Path | plain.np.ndarray] = list(files_of(context, folder, options.data))
    return list(
        plain.search(
            items,
            context.development.labels,
            list(context.partition.folds),
            size=options.size,
            epochs=options.epochs,
            trials=options.trials,
            home=folder,
            seed=seed,
            architectures=tuple(options.architectures.split(",")),
        )
    )


def search_here(study: Path, folder: Path, goal: float, seconds: float) -> Curve:
    """Return (seconds, best so far) after every complete trial, until the goal or the end."""
    words = ["--home", str(folder), "run", str(study), "--name", "race", "--quiet"]
    words += ["--trials", str(MOST_TRIALS), "--workers", "2"]
    begun = dt.datetime.now()
    process = subprocess.Popen([*BUSI_SEARCH, *words], stdout=subprocess.DEVNULL)
    curve, end = Curve(), time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end and reached(curve, goal) == math.inf:
        time.sleep(1)
        curve = _curve(folder, begun)
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.wait()
    return _curve(folder, begun)


def _curve(folder: Path, begun: dt.datetime) -> Curve:
    """What the storage holds now, read with a connection that is closed again."""
    storage = folder / "optuna.db"
    if not storage.exists():
        return []
    with closing(sqlite3.connect(f"file:{storage}?mode=ro", uri=True)) as database:
        try:
            rows = database.execute(
                "select datetime_complete, value from trials join trial_values using (trial_id)"
                " where state = 'COMPLETE' order by datetime_complete"
            ).fetchall()
        except sqlite3.OperationalError:
            return []  # its tables are being made
    curve, best = Curve(), 0.0
    for when, value in rows:
        best = max(best, value)
        curve.append(((dt.datetime.fromisoformat(when) - begun).total_seconds(), best))
    return curve


def reached(curve: Curve, goal: float) -> float:
    """Seconds until the goal was reached; infinite if it never was."""
    return next((seconds for seconds, best in curve if best >= goal), math.inf)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", choices=["busi", "medmnist"], required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--trials", type=int, default=60)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sampler", default="gp", help="of this one; the plain script has TPE")
    parser.add_argument("--architectures", default="small_cnn,small_cnn_wide")
    options = parser.parse_args()
    ratios = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            study = write_study(folder, options, seed)
            context = prepare_study(str(study), home=open_home(folder / "plan"), device="cpu")
            started = time.perf_counter()
            theirs = search_plain(context, folder, options, seed)
            whole = time.perf_counter() - started
            goal = theirs[-1][1]
            ours = search_here(study, folder / "here", goal, whole)
        found, needed = reached(ours, goal), reached(theirs, goal)
        ratios.append(needed / found)
        print(
            f"seed {seed}: plain's best {goal:.4f} after {needed:.0f} s (all {whole:.0f} s); "
            f"here after {found:.0f} s, best {ours[-1][1]:.4f} after {ours[-1][0]:.0f} s; "
            f"{ratios[-1]:.1f} x",
            flush=True,
        )
    print(f"median of {options.seeds} seeds: {statistics.median(ratios):.1f} x")


if __name__ == "__main__":
    main()
