"""How long a frozen network takes for an image, by images at once and by the order in memory.

    uv run python benchmarks/frozen_features.py --size 192

One core, processor time, random pixels; the weights do not matter for the time.
"""

import argparse
import time

import torch

from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.zoo import build_model

IMAGES = 64


def milliseconds(model: torch.nn.Module, pixels: torch.Tensor, at_once: int) -> float:
    """Return the processor time of one image."""
    parts = torch.split(pixels, at_once)
    for part in parts[:2]:
        model(part)
    started = time.process_time()
    for part in parts:
        model(part)
    return 1000 * (time.process_time() - started) / len(pixels)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", default="efficientnet_lite0")
    parser.add_argument("--size", type=int, default=192)
    options = parser.parse_args()
    train_on_one_core()
    model = build_model(options.architecture, num_classes=2).eval()
    stages = torch.nn.Sequential(*model.stages)
    pixels = torch.rand(IMAGES, model.channels, options.size, options.size)
    for name, order in (
        ("channels last", torch.channels_last),
        ("channels first", torch.contiguous_format),
    ):
        stages.to(memory_format=order)
        ordered = pixels.contiguous(memory_format=order)
        for at_once in (1, 4, 8, 16, 32, 64):
            with torch.inference_mode():
                found = milliseconds(stages, ordered, at_once)
            print(f"{name:15} {at_once:3} at once: {found:5.1f} ms an image")


if __name__ == "__main__":
    main()
