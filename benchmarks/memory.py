"""How much memory a dataset takes: decoding, finding twins and training, for growing numbers.

Phantoms are written to disk as PNG files; each number of images is a process of its own. Printed:
private memory (pages that cannot be dropped) at its highest, beyond that of the smallest dataset.

    uv run python benchmarks/memory.py --images 500 4000 --stored-pixels 256 --pixels 64
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from PIL import Image

from busi_search.data.folds import Fold
from busi_search.data.groups import find_groups
from busi_search.data.image_cache import load_images
from busi_search.data.phantom import simulate_phantom
from busi_search.data.sources import load_dataset
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.spec import DatasetSection, Hyperparameters


def write_images(folder: Path, number: int, pixels: int) -> None:
    """Write a few hundred phantoms again and again, each time turned and with other noise."""
    phantom = simulate_phantom(200, size_pixels=64, seed=1)
    rng = np.random.default_rng(0)
    for name in phantom.class_names:
        (folder / name).mkdir()
    for index in range(number):
        source = index % 200
        image = np.asarray(Image.fromarray(phantom.images[source]).resize((pixels, pixels)))
        noisy = np.clip(image * rng.uniform(0.6, 1.2, image.shape) + rng.normal(0, 9), 0, 255)
        name = phantom.class_names[int(phantom.labels[source])]
        shown = Image.fromarray(np.roll(noisy, rng.integers(pixels), axis=1).astype(np.uint8))
        shown.save(folder / name / f"{name} ({index + 1}).png", compress_level=1)


def private_mib() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def look(folder: Path, cache: Path, pixels: int) -> dict[str, float]:
    """Decode, group and train for one epoch; return the highest private memory of each, in MiB."""
    highest, ended = {"": 0.0}, threading.Event()
    step = ""

    def watch() -> None:
        while not ended.wait(0.01):
            highest[step] = max(highest.get(step, 0.0), private_mib())

    threading.Thread(target=watch, daemon=True).start()
    dataset = load_dataset(DatasetSection(source="busi", path=str(folder)))
    step, started = "decoding", time.perf_counter()
    images = load_images(dataset, pixels, cache)
    seconds = {"decoding_seconds": time.perf_counter() - started}
    step, started = "twins", time.perf_counter()
    groups = find_groups(dataset, "auto", cache).united
    seconds["twins_seconds"] = time.perf_counter() - started
    step, started = "training", time.perf_counter()
    half = np.arange(len(dataset)) < len(dataset) // 2
    fold = Fold(train=np.flatnonzero(half), validation=np.flatnonzero(~half))
    data = DevelopmentSet(images, dataset.labels, groups, [fold], num_classes=3, positive=1)
    hyperparameters = Hyperparameters(
        architecture="small_cnn", epochs=1, batch_size=32, image_size_pixels=pixels
    )
    list(cross_validate(data, hyperparameters, study_seed=0, trial_number=0))
    seconds["training_seconds"] = time.perf_counter() - started
    ended.set()
    return {f"{k}_mib": v for k, v in highest.items() if k} | seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, nargs="+", default=[500, 4000])
    parser.add_argument("--stored-pixels", type=int, default=256)
    parser.add_argument("--pixels", type=int, default=64)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        root = Path(options.folder)
        print(json.dumps(look(root / "images", root / "cache", options.pixels)))
        return
    base: dict[str, float] = {}
    for number in options.images:
        with tempfile.TemporaryDirectory() as name:
            (Path(name) / "images").mkdir()
            write_images(Path(name) / "images", number, options.stored_pixels)
            done = subprocess.run(
                [sys.executable, __file__, "--folder", name, "--pixels", str(options.pixels)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            figures = json.loads(done.stdout)
            array = number * options.pixels**2 / 2**20
            raw = number * options.stored_pixels**2 / 2**20
            print(f"{number} images: {raw:.0f} MiB decoded, {array:.0f} MiB as one array")
            base = base or figures
            for step in ("decoding", "twins", "training"):
                key, more = f"{step}_mib", figures[f"{step}_mib"] - base[f"{step}_mib"]
                print(
                    f"  {step:9} {figures[key]:6.0f} MiB private ({more:+.0f}), "
                    f"{figures[f'{step}_seconds']:.1f} s"
                )


if __name__ == "__main__":
    main()
