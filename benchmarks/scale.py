"""What a table of 100,000 images costs: reading it, reading it again, dividing it, training on it.

python benchmarks/scale.py FOLDER [--images 100000] [--size 64] [--steps load again divide train]

Writes small PNG files of different content and a table of them, once, then measures each step in
a process of its own.
"""

import argparse
import csv
import multiprocessing
import resource
import time
from pathlib import Path

import numpy as np
from PIL import Image

from busi_search.data.partition import make_partition
from busi_search.data.sources import load_dataset
from busi_search.spec import DatasetSection

FILES_PER_FOLDER = 1000
STUDY = """
[study]
sampler = "random"
pruner = "none"
[dataset]
source = "table"
path = "{path}"
image_size_pixels = 32
num_folds = 2
[hyperparameters]
architecture = "small_cnn"
epochs = 1
[space]
learning_rate = {{ low = 1e-3, high = 1e-2, log = true }}
"""


def write_table(folder: Path, num_images: int, size_pixels: int) -> Path:
    """Write images of speckle under a bright or a dark spot, and a table that lists them."""
    table = folder / "labels.csv"
    if table.exists():
        return table
    random = np.random.default_rng(0)
    with table.open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["file", "label", "patient", "site"])
        for index in range(num_images):
            name = f"{index // FILES_PER_FOLDER:03d}/{index:06d}.png"
            (folder / name).parent.mkdir(exist_ok=True)
            coarse = random.integers(20, 200, (size_pixels // 4, size_pixels // 4), dtype=np.uint8)
            size = (size_pixels, size_pixels)
            image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
            malignant = index % 3 == 0
            corner = (size_pixels // 3, size_pixels // 3)
            image.paste(60 if malignant else 120, (*corner, 2 * corner[0], 2 * corner[1]))
            image.save(folder / name, compress_level=1)
            label = "malignant" if malignant else "benign"
            rows.writerow([name, label, index // 2, f"site {index % 4}"])
    return table


def section_of(table: Path) -> DatasetSection:
    return DatasetSection(source="table", path=str(table), image_size_pixels=32, num_folds=5)


def load(table: Path, home: Path) -> None:
    dataset = load_dataset(section_of(table), cache=home / "cache")
    print(f"  {len(dataset)} images, fingerprint {dataset.fingerprint}")


def divide(table: Path, home: Path) -> None:
    section = section_of(table)
    dataset = load_dataset(section, cache=home / "cache")
    partition = make_partition(dataset, section, seed=0, cache=home / "cache")
    print(f"  {partition.counts()}")


def train(table: Path, home: Path) -> None:
    from busi_search.run import run_study

    study = table.with_name("scale.toml")
    study.write_text(STUDY.format(path=table))
    result = run_study(str(study), trials=1, home=home, device="cpu", inline=True)
    print(f"  AUC {result.release.estimate.value:.3f}" if result.release else "  no model")


STEPS = {"load": load, "again": load, "divide": divide, "train": train}


def measure(step: str, table: Path, home: Path) -> None:
    start = time.perf_counter()
    STEPS[step](table, home)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{step}: {time.perf_counter() - start:.1f} s, at most {peak:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", nargs="*", choices=tuple(STEPS), default=list(STEPS))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    table = write_table(arguments.folder, arguments.images, arguments.size)
    print(f"written in {time.perf_counter() - start:.1f} s", flush=True)
    for step in arguments.steps:
        # A process of its own each: what one step leaves in memory would count for the next.
        process = multiprocessing.get_context("spawn").Process(
            target=measure, args=(step, table, arguments.folder / "home")
        )
        process.start()
        process.join()


if __name__ == "__main__":
    main()
