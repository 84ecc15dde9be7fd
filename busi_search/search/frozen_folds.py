"""The folds of a configuration whose head is solved for, on features computed once."""

import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from busi_search.search.fold_result import FoldResult
from busi_search.seeding import derive_seed, seed_everything
from busi_search.spec import Hyperparameters
from busi_search.training import metrics
from busi_search.training.classifier import ImageClassifier, average_views
from busi_search.training.from_hyperparameters import load_frozen_features, make_model
from busi_search.training.inputs import place_pixels
from busi_search.training.logistic import Solution, solve_logistic

if TYPE_CHECKING:
    from busi_search.search.cross_validation import DevelopmentSet

Features = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def solve_folds(
    data: "DevelopmentSet",
    hyperparameters: Hyperparameters,
    *,
    study_seed: int,
    trial_number: int,
    device: str,
    cache: Path | None,
    finished: Mapping[int, FoldResult],
    first_fold: int,
) -> Generator[FoldResult]:
    """Solve for the head of every fold; see :func:`~.cross_validation.cross_validate`.

    All folds share one frozen network. A fold is solved at once: there are no looks on the way.

    Raises:
        NotConverged: the solver came to no end.
    """
    order = [(first_fold + turn) % len(data.folds) for turn in range(len(data.folds))]
    if all(index in finished for index in order):
        yield from (finished[index] for index in order)
        return
    started = time.perf_counter()
    # The network has no weights that are drawn, but for the head, which is replaced.
    seed_everything(derive_seed(study_seed, trial_number, first_fold, "fit"))
    model = make_model(hyperparameters, data.num_classes, cache, device).to(device).eval()
    pixels = place_pixels(data.images, device)
    features = load_frozen_features(model, pixels, hyperparameters, cache, begin_at=trial_number)
    for index in order:
        if index in finished:
            yield finished[index]
        else:
            yield _solve_fold(data, index, model, features, hyperparameters, started)
        started = time.perf_counter()


def _solve_fold(
    data: "DevelopmentSet",
    index: int,
    model: ImageClassifier,
    features: Features,
    hyperparameters: Hyperparameters,
    started: float,
) -> FoldResult:
    """Solve for one fold's head and judge it on the images that the fold holds out."""
    fold = data.folds[index]
    rows = features[:, fold.train].reshape(-1, features.shape[-1])
    solution = solve_logistic(
        rows,
        np.tile(data.labels[fold.train], len(features)),
        num_classes=data.num_classes,
        l2_strength=hyperparameters.l2_strength,
        balanced=hyperparameters.class_weighting == "balanced",
    )
    solved = _with_head(model, solution)
    plain = torch.from_numpy(features[-model.num_test_views :, fold.validation])
    log_probabilities = _predict(solved.head, plain.to(model.mean.device))
    truth = data.labels[fold.validation]
    figures = metrics.compute_metrics(
        metrics.softmax(log_probabilities), truth, positive=data.positive
    )
    return FoldResult(
        fold=index,
        log_probabilities=log_probabilities,
        metrics=figures,
        train_loss=(solution.train_loss,),
        val_epochs=(1,),
        val_auc=(figures["auc"],),
        image_passes=len(rows),
        seconds=time.perf_counter() - started,
        model=solved,
    )


def _with_head(model: ImageClassifier, solution: Solution) -> ImageClassifier:
    """Return a network with another head, that shares its frozen stages with the first."""
    linear = nn.Linear(solution.weight.shape[1], solution.weight.shape[0])
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(solution.weight))
        linear.bias.copy_(torch.from_numpy(solution.bias))
    head = nn.Sequential(nn.Dropout(0.0), linear).to(model.mean.device)
    return model.with_head(head).eval()


@torch.inference_mode()
def _predict(head: nn.Module, views: Tensor) -> Features:
    """Map the (V, N, F) features of the test-time views to (N, C) log-probabilities."""
    logits = average_views(torch.stack([head(rows) for rows in views]))
    result: Features = torch.log_softmax(logits.float(), dim=1).cpu().numpy()
    return result
