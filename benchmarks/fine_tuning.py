"""What each way of fine-tuning brings on real images: paired with one base configuration.

    uv run python benchmarks/fine_tuning.py --data Dataset_BUSI_with_GT --to found.jsonl

Base: EfficientNet-Lite 0 with ImageNet weights, all layers trained, cosine, AdamW. Every variant
changes what its name says and nothing else, and is trained on the same folds with the same seeds:
the same images come in the same order. Results are added to ``--to`` as soon as they are known, and
what is there already is not trained again, so that a measurement may be made in several calls.
Printed: mean AUC and accuracy over folds and seeds, the difference from the base with its standard
error over (fold, seed) pairs, and processor seconds.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from busi_search.data.sources import guess_source
from busi_search.home import open_home
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.search.prepare import prepare_study
from busi_search.training.cpu_setup import train_on_one_core

BASE: dict[str, Any] = {
    "architecture": "efficientnet_lite0",
    "weights": "imagenet",
    "freeze_depth": 0,
    "learning_rate": 1e-3,
    "weight_decay": 1e-2,
    "batch_size": 32,
    "augmentation_strength": 0.5,
    "dropout": 0.2,
    "test_time_flip": True,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "ratio .3": {"backbone_learning_rate_ratio": 0.3},
    "decay .6": {"layer_decay": 0.6},
    "head first": {"head_only_epochs": 1},
    "depth .2": {"stochastic_depth": 0.2},
    "last 3": {"average_last_epochs": 3, "min_learning_rate": 3e-4},
    "moving .98": {"weight_averaging": 0.98},
    "small first": {"start_image_size_ratio": 0.7, "full_size_epochs": 2},
    "all rates .3": {"learning_rate": 3e-4},
}


def measure(options: argparse.Namespace, name: str, seed: int, fold: int) -> dict[str, Any]:
    """Train one variant on one fold with one seed."""
    chosen = {**BASE, "epochs": options.epochs, **VARIANTS[name]}
    overrides = tuple(f"{key}={json.dumps(value)}" for key, value in chosen.items())
    source = guess_source(options.data)
    context = prepare_study(
        "busi-scratch",
        data=options.data,
        home=open_home(options.home),
        overrides=(
            "recipes=[]",
            f'dataset.source="{source}"',
            f"dataset.image_size_pixels={options.size}",
            *overrides,
        ),
        device="cpu",
    )
    data = development_set(context, context.spec.resolve({}))
    # What is known already is passed through: only the fold asked for is trained.
    known = FoldResult(0, np.zeros((0, data.num_classes), np.float32), {}, (), (), (), 0, 0.0)
    others = {index: known for index in range(len(data.folds)) if index != fold}
    started = time.process_time()
    steps = cross_validate(
        data,
        context.spec.resolve({}),
        study_seed=seed,
        trial_number=0,
        cache=context.home.cache,
        finished=others,
    )
    result = next(step for step in fold_results(steps) if step.fold == fold)
    return {
        "variant": name,
        "seed": seed,
        "fold": fold,
        "size": options.size,
        "epochs": options.epochs,
        "auc": result.metrics["auc"],
        "accuracy": result.metrics["accuracy"],
        "log_loss": result.metrics["log_loss"],
        "seconds": time.process_time() - started,
    }


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return one line a variant, compared with the base on the (fold, seed) pairs of both."""
    found = {(row["variant"], row["seed"], row["fold"]): row for row in rows}
    lines = []
    for name in VARIANTS:
        pairs = [
            (row, found["base", seed, fold])
            for (variant, seed, fold), row in found.items()
            if variant == name and ("base", seed, fold) in found
        ]
        if not pairs:
            continue
        own = {
            key: np.mean([row[key] for row, _ in pairs]) for key in pairs[0][0] if key != "variant"
        }
        parts = []
        for key in ("auc", "accuracy", "log_loss"):
            difference = np.array([row[key] - base[key] for row, base in pairs])
            error = difference.std(ddof=1) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.nan
            parts.append(f"{key} {own[key]:.4f} ({difference.mean():+.4f} ± {error:.4f})")
        lines.append(
            f"{name:14s} {'  '.join(parts)}  {own['seconds']:.0f} CPU-s, {len(pairs)} pairs"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True)
    parser.add_argument("--to", type=Path, required=True, help="JSON lines, added to")
    parser.add_argument("--home", default="mlruns")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--folds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101])
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--at-most-seconds", type=float, default=math.inf)
    options = parser.parse_args()
    train_on_one_core()
    torch.set_num_interop_threads(1)
    started = time.monotonic()
    lines = options.to.read_text().splitlines() if options.to.exists() else []
    rows = [json.loads(line) for line in lines]
    done = {(row["variant"], row["seed"], row["fold"]) for row in rows}
    for seed in options.seeds:
        for fold in options.folds:
            for name in options.variants:
                late = time.monotonic() - started > options.at_most_seconds
                if (name, seed, fold) in done or late:
                    continue
                rows.append(measure(options, name, seed, fold))
                with options.to.open("a") as stream:
                    stream.write(json.dumps(rows[-1]) + "\n")
    print("\n".join(table(rows)), flush=True)


if __name__ == "__main__":
    main()
