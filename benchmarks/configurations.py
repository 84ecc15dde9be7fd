"""What single configurations score on the folds of a bundled study: one change at a time.

    uv run python -m benchmarks.configurations breastmnist --data breastmnist.npz \
        learning_rate=3e-3 learning_rate=3e-3,test_time_shift=0

Each configuration is the study's ``[hyperparameters]`` with what its argument changes, trained with
``--seeds`` seeds on the grouped folds of the development part; the test part is never looked at.
Printed: mean AUC, accuracy and macro F1 over seeds and folds, and of the seeds' mean probabilities
(``together``), which is what averaging several trainings would bring.
"""

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch

from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import fold_results
from busi_search.search.prepare import prepare_study
from busi_search.training import metrics

FIGURES = ("auc", "accuracy", "f1")

Probabilities = npt.NDArray[np.float64]


def measure(
    study: str, data: str | None, overrides: tuple[str, ...], seed: int
) -> tuple[list[Probabilities], float]:
    """Return each fold's probabilities and the processor seconds taken."""
    torch.set_num_threads(1)
    context = prepare_study(study, data=data, overrides=("recipes=[]", *overrides), device="cpu")
    hyperparameters = context.spec.resolve({})
    data = development_set(context, hyperparameters)  # decoded before the clock starts
    started = time.process_time()
    steps = cross_validate(
        data, hyperparameters, study_seed=seed, trial_number=0, cache=context.home.cache
    )
    probabilities = [metrics.softmax(result.log_probabilities) for result in fold_results(steps)]
    return probabilities, time.process_time() - started


def _listed(figures: Sequence[float]) -> str:
    return " ".join(f"{figure:.4f}" for figure in figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=100)
    parser.add_argument("configurations", nargs="+", help="key=value,key=value; '' for none")
    options = parser.parse_args()
    context = prepare_study(
        options.study, data=options.data, overrides=("recipes=[]",), device="cpu"
    )
    labels, positive = context.development.labels, context.development.positive
    truths = [labels[fold.validation] for fold in context.partition.folds]

    def score(folds: list[Probabilities]) -> tuple[float, ...]:
        rows = zip(folds, truths, strict=True)
        found = [metrics.compute_metrics(p, truth, positive=positive) for p, truth in rows]
        return tuple(float(np.mean([row[name] for row in found])) for name in FIGURES)

    def row(name: str, runs: list[list[Probabilities]]) -> str:
        each = np.array([score(run) for run in runs])
        together = score([np.mean(views, axis=0) for views in zip(*runs, strict=True)])
        auc, *others = each.mean(axis=0)
        return (
            f"{name:60s} {auc:.4f} (±{each[:, 0].std():.4f}) {_listed(others)}"
            f"   together {_listed(together)}"
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
                )
                for seed in range(options.seeds)
            ]
            for line in options.configurations
        ]
        for line, futures in zip(options.configurations, jobs, strict=True):
            runs = [future.result() for future in futures]
            seconds = sum(run[1] for run in runs)
            name = line or "as the study has it"
            print(f"{row(name, [run[0] for run in runs])}   {seconds:.0f} CPU-s", flush=True)


if __name__ == "__main__":
    main()
