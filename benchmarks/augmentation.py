"""Augmentation per image in batches: this package's against torchvision's and kornia's.

torchvision's v2 transforms draw once a call, so a batch would share one draw; correct is a call an
image. kornia draws per image of a batch (measured where it is installed; it is no dependency). The
same kinds of operation each: flip, rotation with shift and zoom, brightness and contrast, erasing.

    uv run python benchmarks/augmentation.py
"""

import importlib.util
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torchvision.transforms import v2

from busi_search.spec import Hyperparameters
from busi_search.training.augment import augment_batch
from busi_search.training.from_hyperparameters import augmentation_ranges

REPEATS, BATCH = 7, 32
RANGES = replace(augmentation_ranges(Hyperparameters()), gain_slope=0.0, speckle=0.0)


def _own(pixels: Tensor) -> Tensor:
    return augment_batch(pixels, 1.0, torch.Generator().manual_seed(0), RANGES)


def _torchvision() -> Callable[[Tensor], Tensor]:
    transform = v2.Compose(
        [
            v2.RandomHorizontalFlip(0.5),
            v2.RandomAffine(30, translate=(0.15, 0.15), scale=(0.8, 1.2)),
            v2.ColorJitter(brightness=0.2, contrast=0.4),
            v2.RandomErasing(0.5, scale=(0.02, 0.1)),
        ]
    )
    return lambda pixels: torch.stack([transform(image / 255) for image in pixels])


def _kornia() -> Callable[[Tensor], Tensor]:
    import kornia.augmentation as K

    transform = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5),
        K.RandomAffine(30.0, translate=(0.15, 0.15), scale=(0.8, 1.2), p=1.0),
        K.ColorJiggle(brightness=0.2, contrast=0.4, p=1.0),
        K.RandomErasing(p=0.5, scale=(0.02, 0.1)),
    )
    return lambda pixels: transform(pixels / 255)


def _median_seconds(function: Callable[[Tensor], Tensor], pixels: Tensor) -> float:
    seconds = []
    for _ in range(REPEATS + 2):
        started = time.perf_counter()
        function(pixels)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:])


def main() -> None:
    torch.set_num_threads(1)
    others: dict[str, Callable[[Tensor], Tensor]] = {"torchvision, an image a call": _torchvision()}
    if importlib.util.find_spec("kornia") is not None:
        others["kornia, a batch a call"] = _kornia()
    print("pixels | busi-search, images/s | others, images/s (times slower)")
    for size in (28, 64, 224):
        pixels = torch.rand(BATCH, 1, size, size) * 255
        own = _median_seconds(_own, pixels)
        found = {name: _median_seconds(function, pixels) for name, function in others.items()}
        listed = "; ".join(f"{k} {BATCH / v:.0f} ({v / own:.1f}×)" for k, v in found.items())
        print(f"{size:6d} | {BATCH / own:21.0f} | {listed}", flush=True)


if __name__ == "__main__":
    main()
