"""What the registered model would score on unseen images: nested cross-validation of one setting.

    uv run python -m benchmarks.nested breastmnist --data breastmnist.npz --seeds 2 \
        architecture=tiny_resnet weights=phantom learning_rate=.002

Outer grouped folds over *all* images but contradictory ones: every fifth is predicted by what was
trained on the rest, by fold models of five inner folds, singly and averaged, and by as many models
trained on the whole rest (``refit``). This looks at the images of the sealed test too: only for
data whose test is spent.
"""

import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.duplicates import conflicting_groups
from busi_search.data.folds import make_folds
from busi_search.data.groups import find_groups
from busi_search.data.image_cache import load_images
from busi_search.data.sources import load_dataset
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.search.prepare import prepare_study
from busi_search.training import metrics
from busi_search.training.fit import predict_log_probabilities
from busi_search.training.from_hyperparameters import make_inputs
from busi_search.training.inputs import place_pixels

OUTER_SEED, NUM_FOLDS = 777, 5
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Outer:
    """One outer part: its classes, and each model's (M, N, C) probabilities by kind of model."""

    truth: npt.NDArray[np.int64]
    positive: int
    folds: Array
    refit: Array

    def score(self, probabilities: Array) -> Array:
        """AUC and accuracy."""
        found = metrics.compute_metrics(probabilities, self.truth, positive=self.positive)
        return np.array([found["auc"], found["accuracy"]])


def measure(
    study: str, data: str | None, overrides: tuple[str, ...], seed: int, outer: int
) -> Outer:
    """Train everything that one outer part is predicted by."""
    torch.set_num_threads(1)
    context = prepare_study(study, data=data, overrides=("recipes=[]", *overrides), device="cpu")
    hyperparameters, cache = context.spec.resolve({}), context.home.cache
    dataset = load_dataset(context.spec.dataset)
    grouping = find_groups(dataset, context.spec.dataset.groups, cache)
    clashing = conflicting_groups(grouping.twins, dataset.labels)
    sound = np.flatnonzero(~np.isin(grouping.twins, clashing))
    images = np.array(load_images(dataset, hyperparameters.image_size_pixels, cache))[sound]
    labels, groups = dataset.labels[sound], grouping.united[sound]
    part = make_folds(labels, groups, num_folds=NUM_FOLDS, seed=OUTER_SEED)[outer]
    train, unseen = part.train, part.validation
    described = {"num_classes": len(dataset.class_names), "positive": dataset.positive}

    def train_and_judge(data: DevelopmentSet, number: int) -> Iterator[FoldResult]:
        return fold_results(
            cross_validate(data, hyperparameters, study_seed=seed, trial_number=number, cache=cache)
        )

    inner = make_folds(labels[train], groups[train], num_folds=NUM_FOLDS, seed=OUTER_SEED)
    rest = DevelopmentSet(images[train], labels[train], groups[train], inner, **described)
    whole = DevelopmentSet(images, labels, groups, [part], **described)
    rows = []
    for result in train_and_judge(rest, 0):
        assert result.model is not None
        inputs = make_inputs(
            result.model, place_pixels(images, "cpu"), hyperparameters, None, "cpu"
        )
        rows.append(np.exp(predict_log_probabilities(result.model, inputs, unseen)))
    refit = [
        metrics.softmax(result.log_probabilities)
        for number in range(1, NUM_FOLDS + 1)
        for result in train_and_judge(whole, number)
    ]
    return Outer(labels[unseen], dataset.positive, np.array(rows, dtype=float), np.array(refit))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("study")
    parser.add_argument("--data")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("settings", nargs="*", help="key=value")
    options = parser.parse_intermixed_args()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        jobs = [
            [
                pool.submit(
                    measure, options.study, options.data, tuple(options.settings), seed, outer
                )
                for outer in range(NUM_FOLDS)
            ]
            for seed in range(options.seeds)
        ]
        runs = [[future.result() for future in futures] for futures in jobs]

    def row(name: str, scores: list[Array]) -> None:
        auc, accuracy = np.mean(scores, axis=0)
        print(f"{name:60s} AUC {auc:.4f}  accuracy {accuracy:.4f}", flush=True)

    for seed, parts in enumerate(runs):
        row(f"seed {seed}: one fold model", [o.score(m) for o in parts for m in o.folds])
        row(f"seed {seed}: their average", [o.score(o.folds.mean(axis=0)) for o in parts])
        row(f"seed {seed}: average of refits", [o.score(o.refit.mean(axis=0)) for o in parts])
    together = [
        own[0].score(np.mean([o.folds.mean(axis=0) for o in own], axis=0))
        for own in zip(*runs, strict=True)
    ]
    row("all seeds' fold models", together)


if __name__ == "__main__":
    main()
