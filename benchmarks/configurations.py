"""What single configurations score on the folds of a bundled study: one change at a time.

    uv run python -m benchmarks.configurations breastmnist --data breastmnist.npz \
        learning_rate=3e-3 learning_rate=3e-3,batch_size=16

Each configuration is the study's ``[hyperparameters]`` with what its argument changes, trained with
``--seeds`` seeds on the grouped folds of the development part; the test part is never looked at.
Printed: mean AUC and accuracy over seeds and folds; the same of the seeds' mean probabilities
(``together``), which is what averaging several trainings would bring; and, with ``--shifts``, of
probabilities averaged over images moved by a pixel as well.
"""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from busi_search.data.image_cache import load_images
from busi_search.release.plan import plan_study
from busi_search.search.cross_validation import cross_validate
from busi_search.spec import Hyperparameters
from busi_search.training import metrics

Probabilities = npt.NDArray[np.float64]


def moved(model: torch.nn.Module, images: npt.NDArray[np.uint8]) -> Probabilities:
    """Return (N, C) probabilities averaged over an image and its neighbours one pixel away."""
    pixels = torch.from_numpy(images.copy()).unsqueeze(1).float()
    padded = F.pad(pixels, (1, 1, 1, 1), mode="reflect")
    size = pixels.shape[-1]
    model.eval()
    total = torch.zeros(())
    with torch.inference_mode():
        for y in range(3):
            for x in range(3):
                view = padded[..., y : y + size, x : x + size]
                total = total + model(view).softmax(1)
    result: Probabilities = (total / 9).double().numpy()
    return result


def measure(
    study: str, data: str | None, overrides: tuple[str, ...], seed: int, shifts: bool
) -> tuple[list[Probabilities], list[Probabilities], float]:
    """Return each fold's probabilities, without and with shifts, and the seconds taken."""
    torch.set_num_threads(1)
    context = plan_study(study, data=data, overrides=("recipes=[]",), device="cpu")
    fixed: dict[str, Any] = dict(context.spec.hyperparameters)
    fixed["image_size_pixels"] = context.spec.dataset.image_size_pixels
    for override in overrides:
        key, _, value = override.partition("=")
        fixed[key] = value
    hyperparameters = Hyperparameters.model_validate(fixed)
    development = context.development
    images = load_images(development, hyperparameters.image_size_pixels, cache=context.home.cache)
    started = time.process_time()
    plain, averaged = [], []
    for result in cross_validate(
        images,
        development.labels,
        context.groups,
        context.partition.folds,
        hyperparameters,
        num_classes=len(development.class_names),
        positive=development.positive,
        study_seed=seed,
        trial_number=0,
    ):
        plain.append(metrics.softmax(result.log_probabilities))
        if shifts:
            held = context.partition.folds[result.fold].validation
            averaged.append(moved(result.model, images[held]))
    return plain, averaged, time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("--shifts", action="store_true")
    parser.add_argument("configurations", nargs="+", help="key=value,key=value; '' for none")
    options = parser.parse_args()
    context = plan_study(options.study, data=options.data, overrides=("recipes=[]",), device="cpu")
    labels, positive = context.development.labels, context.development.positive
    truths = [labels[fold.validation] for fold in context.partition.folds]

    def score(folds: list[Probabilities]) -> tuple[float, float]:
        rows = zip(folds, truths, strict=True)
        found = [metrics.compute_metrics(p, truth, positive=positive) for p, truth in rows]
        auc, accuracy = (np.mean([row[name] for row in found]) for name in ("auc", "accuracy"))
        return float(auc), float(accuracy)

    def row(name: str, runs: list[list[Probabilities]]) -> str:
        each = np.array([score(run) for run in runs])
        together = score([np.mean(views, axis=0) for views in zip(*runs, strict=True)])
        auc, accuracy = each.mean(axis=0)
        return (
            f"{name:60s} {auc:.4f} (±{each[:, 0].std():.4f}) {accuracy:.4f}"
            f"   together {together[0]:.4f} {together[1]:.4f}"
        )

    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [
            [
                pool.submit(
                    measure,
                    options.study,
                    options.data,
                    tuple(filter(None, line.split(","))),
                    options.first_seed + seed,
                    options.shifts,
                )
                for seed in range(options.seeds)
            ]
            for line in options.configurations
        ]
        for line, futures in zip(options.configurations, jobs, strict=True):
            runs = [future.result() for future in futures]
            seconds = sum(run[2] for run in runs)
            name = line or "as the study has it"
            print(f"{row(name, [run[0] for run in runs])}   {seconds:.0f} CPU-s", flush=True)
            if options.shifts:
                print(row("  … and moved by a pixel", [run[1] for run in runs]), flush=True)


if __name__ == "__main__":
    main()
