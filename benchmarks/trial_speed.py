"""How fast one trial is: against a bare loop on tensors in memory, and against the plain script.

Parts: ``inside`` (cross_validate against the bare loop, and against one that looks at the
validation images as often, as pruning needs), ``decoding`` (all layers trained, against
benchmarks/plain.py), ``frozen`` (layer4 and head, or the head alone, against benchmarks/plain.py),
``memory`` (a worker that keeps the memory it frees, against one that gives it back), ``lite``
(EfficientNet-Lite 0 at 160 px, all layers trained and frozen to the last stage, against
benchmarks/plain.py, in processor seconds of one thread: it may be run beside other work).
Rates are medians of alternating runs; ratios are what counts. Against the plain script, and in
``memory``, our side runs in processes of its own, as workers do; beside the bare loop it shares the
process, and gives its memory back as that does.

    uv run python benchmarks/trial_speed.py inside --data FOLDER
"""

import argparse
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from busi_search.data.folds import Fold, make_folds
from busi_search.data.image_cache import load_images
from busi_search.data.sources import load_dataset
from busi_search.search.cross_validation import NUM_CURVE_POINTS, DevelopmentSet, cross_validate
from busi_search.spec import DatasetSection, Hyperparameters
from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.fit import make_optimizer
from busi_search.training.zoo import build_model

sys.path.insert(0, str(Path(__file__).parent))
import plain

BATCH = 32


class Material:
    """Images of one dataset at one size, with folds."""

    def __init__(self, data: str, size: int, cache: Path) -> None:
        self.dataset = load_dataset(DatasetSection(source="busi", path=data))
        self.images = load_images(self.dataset, size, cache)
        self.labels = self.dataset.labels
        self.folds: list[Fold] = list(
            make_folds(self.labels, np.arange(len(self.labels)), num_folds=5, seed=0)
        )
        self.items: list[Path | np.ndarray] = [Path(data) / p for p in self.dataset.paths]
        self.size, self.cache = size, cache

    def passes(self, folds: int, epochs: int) -> int:
        """Images trained on."""
        return sum(len(fold.train) for fold in self.folds[:folds]) * epochs

    def ours(self, folds: int, trial: int = 0, **settings: object) -> float:
        """Seconds that cross_validate takes."""
        settings = {"batch_size": BATCH, "image_size_pixels": self.size, **settings}
        hyperparameters = Hyperparameters(**settings)  # type: ignore[arg-type]
        torch.set_num_threads(1)
        data = DevelopmentSet(
            self.images, self.labels, np.arange(len(self.labels)), self.folds[:folds],
            num_classes=len(self.dataset.class_names), positive=1,
        )  # fmt: skip
        started = time.perf_counter()
        for _ in cross_validate(
            data, hyperparameters, study_seed=0, trial_number=trial, cache=self.cache
        ):
            pass
        return time.perf_counter() - started

    def plain(self, folds: int, threads: int, **settings: object) -> float:
        """Seconds that the plain script takes."""
        torch.set_num_threads(threads)
        chosen = plain.Settings(batch_size=BATCH, **settings)  # type: ignore[arg-type]
        started = time.perf_counter()
        for _ in plain.run_folds(
            self.items, self.labels, self.folds[:folds], chosen, size=self.size
        ):
            pass
        return time.perf_counter() - started


def alternate(repeats: int, **runs: Callable[[], float]) -> dict[str, float]:
    """Median seconds of each run, the runs taking turns; each is told as soon as it is known."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(run())
            print(f"  {name} {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    return {name: statistics.median(found) for name, found in seconds.items()}


def bare(
    material: Material, architecture: str, folds: int, epochs: int, *, looks: int = 1
) -> float:
    """Seconds of a bare loop: model, loss, backward, step, on floats in memory.

    It looks at the validation images at most ``looks`` times, the last time after the last epoch.
    """
    torch.set_num_threads(1)
    pixels = torch.from_numpy(np.array(material.images)).unsqueeze(1).float()
    labels = torch.from_numpy(material.labels)
    every = math.ceil(epochs / looks)
    started = time.perf_counter()
    for fold in material.folds[:folds]:
        model = build_model(architecture, num_classes=3)
        optimizer = make_optimizer(model, "adamw", learning_rate=1e-3, weight_decay=0.01)
        for epoch in range(1, epochs + 1):
            model.train()
            order = torch.from_numpy(fold.train)[torch.randperm(len(fold.train))]
            for batch in order.split(BATCH):
                if len(batch) > 1:
                    optimizer.zero_grad()
                    F.cross_entropy(model(pixels[batch]), labels[batch]).backward()
                    optimizer.step()
            if epoch % every == 0 or epoch == epochs:
                model.eval()
                with torch.inference_mode():
                    model(pixels[torch.from_numpy(fold.validation)])
    return time.perf_counter() - started


def inside(data: str, cache: Path, repeats: int) -> None:
    for architecture, size, epochs in (
        ("small_cnn", 28, 8),
        ("tiny_resnet", 28, 4),
        ("small_cnn", 64, 4),
        ("resnet18", 64, 1),
    ):
        material = Material(data, size, cache)
        found = alternate(
            repeats,
            bare=lambda: bare(material, architecture, 2, epochs),
            looking=lambda: bare(material, architecture, 2, epochs, looks=NUM_CURVE_POINTS),
            plain_pixels=lambda: material.ours(
                2, architecture=architecture, epochs=epochs, augmentation_strength=0.0
            ),
            augmented=lambda: material.ours(
                2, architecture=architecture, epochs=epochs, augmentation_strength=0.5
            ),
        )
        passes = material.passes(2, epochs)
        for name, seconds in found.items():
            print(
                f"{architecture} {size} px, {name}: {passes / seconds:.0f} images/s, "
                f"{found['bare'] / seconds:.2f} of bare, "
                f"{found['looking'] / seconds:.2f} of one that looks as often",
                flush=True,
            )


def _work(
    barrier: Any, data: str, size: int, cache: Path, folds: int, settings: dict[str, Any]
) -> float:
    train_on_one_core()
    material = Material(data, size, cache)
    barrier.wait()
    return material.ours(folds, **settings)


def of_workers(
    count: int, data: str, size: int, cache: Path, settings: dict[str, Any], *, folds: int
) -> float:
    """Seconds a worker's folds take, ``count`` of them training them each, start-up left out.

    Returns:
        The slowest worker's seconds, divided by the number of workers.
    """
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(count) as pool:
        barrier = manager.Barrier(count)
        arguments = [(barrier, data, size, cache, folds, settings)] * count
        return max(pool.starmap(_work, arguments, chunksize=1)) / count


def decoding(data: str, cache: Path, repeats: int) -> None:
    for architecture, size, epochs in (("small_cnn", 32, 2), ("resnet18", 64, 1)):
        material = Material(data, size, cache)
        passes = material.passes(1, epochs)
        settings: dict[str, Any] = {"architecture": architecture, "epochs": epochs}
        found = alternate(
            repeats,
            plain=lambda: material.plain(1, 2, **settings),
            one=lambda: of_workers(1, data, size, cache, settings, folds=1),
            two=lambda: of_workers(2, data, size, cache, settings, folds=1),
        )
        print(
            f"{architecture} {size} px, all layers: plain {passes / found['plain']:.0f} images/s "
            f"(2 threads, 2 loaders); ours {passes / found['one']:.0f} with one one-thread worker "
            f"({found['plain'] / found['one']:.2f} x), {passes / found['two']:.0f} with two "
            f"({found['plain'] / found['two']:.2f} x)",
            flush=True,
        )


def frozen(data: str, cache: Path, repeats: int) -> None:
    material = Material(data, 128, cache)
    weights = cache / "resnet18.pth"
    torch.manual_seed(0)
    torch.save(plain.models.resnet18().state_dict(), weights)
    for depth in (4, 5):
        _frozen_to(depth, material, data, weights, repeats)


def _frozen_to(depth: int, material: Material, data: str, weights: Path, repeats: int) -> None:
    settings = {
        "architecture": "resnet18", "epochs": 20, "freeze_depth": depth,
        "weights": str(weights), "augmentation_views": 4,
    }  # fmt: skip

    def plain_trial() -> float:
        # Its time is proportional to its passes: one epoch of one fold is measured.
        one = material.plain(1, 2, epochs=1, freeze_depth=depth, weights=str(weights))
        return one * material.passes(5, 20) / material.passes(1, 1)

    def ours(workers: int, trial: int) -> float:
        chosen = {"trial": trial, **settings}
        return of_workers(workers, data, material.size, material.cache, chosen, folds=5)

    def first_trial() -> float:
        for path in (material.cache / "features").glob("*.npy"):
            path.unlink()
        return ours(1, 0)

    found = alternate(
        repeats,
        plain=plain_trial,
        first=first_trial,
        next=lambda: ours(1, 1),
        next_of_two_workers=lambda: ours(2, 2),
    )
    print(f"resnet18 {material.size} px, freeze depth {depth}, 20 epochs x 5 folds")
    for name, seconds in found.items():
        print(f"  {name}: {seconds:.1f} s a trial, {found['plain'] / seconds:.1f} x", flush=True)


def _own_process(
    keep: bool, data: str, size: int, cache: Path, settings: dict[str, Any]
) -> tuple[float, float, float]:
    """Seconds of one fold, the system's share of them, most memory held (MiB)."""
    if keep:
        train_on_one_core()
    material = Material(data, size, cache)
    before = resource.getrusage(resource.RUSAGE_SELF)
    seconds = material.ours(1, **settings)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return seconds, after.ru_stime - before.ru_stime, after.ru_maxrss / 1024


def memory(data: str, cache: Path, repeats: int) -> None:
    for architecture, size, batch, epochs in (
        ("small_cnn", 28, 32, 8),
        ("small_cnn", 64, 32, 4),
        ("small_cnn_wide", 64, 16, 4),
        ("small_cnn_wide", 64, 64, 4),
        ("resnet18", 64, 32, 1),
        ("resnet18", 128, 32, 1),
    ):
        settings = {"architecture": architecture, "epochs": epochs, "batch_size": batch}
        found: dict[bool, list[tuple[float, float, float]]] = {False: [], True: []}
        for _ in range(repeats):
            for keep, seen in found.items():
                with get_context("spawn").Pool(1) as pool:
                    arguments = (keep, data, size, cache, settings)
                    seen.append(pool.apply(_own_process, arguments))
        for keep, seen in found.items():
            whole, system, most = (statistics.median(column) for column in zip(*seen, strict=True))
            print(
                f"{architecture} {size} px, batch {batch}, freed memory "
                f"{'kept' if keep else 'given back'}: {whole:.2f} s ({system:.2f} s of the "
                f"system), at most {most:.0f} MiB",
                flush=True,
            )
        ratio = statistics.median(
            given[0] / kept[0] for given, kept in zip(found[False], found[True], strict=True)
        )
        print(f"  {ratio:.2f} x", flush=True)


def processor_seconds(run: Callable[[], object]) -> float:
    """Return the processor seconds of this process and of the children that ended meanwhile."""

    def so_far() -> float:
        kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        return sum(use.ru_utime + use.ru_stime for use in map(resource.getrusage, kinds))

    before = so_far()
    run()
    return so_far() - before


def lite(data: str, cache: Path, repeats: int) -> None:
    """Passes are timed on a part of the images; a trial of 5 folds x 20 epochs is their sum."""
    part, views, epochs = 160, 4, 20
    train_on_one_core()
    material = Material(data, 160, cache)
    num_images = len(material.labels)
    chosen = np.random.default_rng(0).permutation(num_images)[:part]
    material.images, material.labels = np.array(material.images[chosen]), material.labels[chosen]
    material.items = [material.items[index] for index in chosen]
    material.folds = list(make_folds(material.labels, np.arange(part), num_folds=5, seed=0))
    passes = material.passes(1, 1)
    common = {"architecture": "efficientnet_lite0", "weights": "imagenet", "epochs": 1}

    def ours(depth: int, trial: int = 0, epochs: int = 1) -> float:
        settings = {**common, "epochs": epochs, "freeze_depth": depth, "augmentation_views": views}
        return processor_seconds(lambda: material.ours(1, trial, **settings))

    def plainly(depth: int) -> float:
        settings = {"architecture": "efficientnet_lite0", "epochs": 1, "freeze_depth": depth}
        return processor_seconds(lambda: material.plain(1, 1, **settings))

    for depth in (0, 4):
        rows: dict[str, list[float]] = {"plain": [], "first": [], "next": [], "longer": []}
        for _ in range(repeats):
            for path in (cache / "features").glob("*.npy"):
                path.unlink()
            rows["plain"].append(plainly(depth))
            rows["first"].append(ours(depth))
            rows["next"].append(ours(depth, 1))
            rows["longer"].append(ours(depth, 1, epochs=3))
        found = {name: statistics.median(seconds) for name, seconds in rows.items()}
        # What one more epoch takes, looks at the validation images included.
        a_pass = (found["longer"] - found["next"]) / 2 / passes
        ratio = found["plain"] / passes / a_pass
        print(
            f"efficientnet_lite0 160 px, freeze depth {depth}: plain {passes / found['plain']:.1f} "
            f"images a processor second, ours {1 / a_pass:.1f}, {ratio:.2f} x",
            flush=True,
        )
        if depth:
            all_passes = num_images * 4 * epochs
            once = (found["first"] - found["next"]) / part * num_images
            whole = found["plain"] / passes * all_passes
            mine = all_passes * a_pass
            print(
                f"  a trial of 5 folds x {epochs} epochs: plain {whole:.0f} s, the first "
                f"{once + mine:.0f} s ({whole / (once + mine):.1f} x), the next {mine:.0f} s "
                f"({whole / mine:.1f} x)",
                flush=True,
            )


PARTS = {"inside": inside, "decoding": decoding, "frozen": frozen, "memory": memory, "lite": lite}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=tuple(PARTS))
    parser.add_argument("--data", required=True)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        PARTS[options.part](options.data, Path(folder), options.repeats)


if __name__ == "__main__":
    main()
