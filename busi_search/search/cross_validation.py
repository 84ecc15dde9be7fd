"""One configuration on every fold: each image is predicted by a model that never saw it."""

import math
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.folds import Fold, make_folds
from busi_search.search.context import StudyContext, masks_for
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.frozen_folds import solve_folds
from busi_search.seeding import derive_seed, seed_everything
from busi_search.spec import Hyperparameters
from busi_search.training import metrics
from busi_search.training.classifier import ImageClassifier
from busi_search.training.fit import SmallStart, predict_log_probabilities
from busi_search.training.from_hyperparameters import (
    fit,
    make_inputs,
    make_masked_inputs,
    make_model,
    make_schedule,
    make_small_start,
)
from busi_search.training.inputs import Inputs, place_pixels
from busi_search.training.logistic import NotConverged

Indices = npt.NDArray[np.int64]
Images = npt.NDArray[np.uint8]

NUM_CURVE_POINTS = 8
INNER_FOLDS = 6


class TrainingDiverged(ArithmeticError):
    """The loss is no longer a finite number; the configuration cannot be trained."""


@dataclass(frozen=True)
class DevelopmentSet:
    """The images that configurations are compared on, and how they are divided.

    Attributes:
        images: (N, S, S) uint8, all of one size, or (N, 2, S, S) of two regions.
        labels: (N,) classes.
        groups: (N,) groups; an inner split for early stopping keeps them together.
        folds: divisions of ``range(N)``.
        num_classes: C.
        positive: the class that binary figures are about.
        masks: uint8 lesion masks in the form of the images, needed where ``mask_weight`` is not 0.
    """

    images: Images
    labels: Indices
    groups: Indices
    folds: Sequence[Fold]
    num_classes: int
    positive: int
    masks: Images | None = None


def development_set(context: StudyContext, hyperparameters: Hyperparameters) -> DevelopmentSet:
    """Return a study's images at a configuration's size, with the study's folds."""
    development = context.development
    return DevelopmentSet(
        images=context.images_for(hyperparameters),
        labels=development.labels,
        groups=context.groups,
        folds=context.partition.folds,
        num_classes=len(development.class_names),
        positive=development.positive,
        masks=masks_for(context, hyperparameters),
    )


def cross_validate(
    data: DevelopmentSet,
    hyperparameters: Hyperparameters,
    *,
    study_seed: int,
    trial_number: int,
    device: str = "cpu",
    cache: Path | None = None,
    finished: Mapping[int, FoldResult] | None = None,
    first_fold: int = 0,
) -> Generator[Look | FoldResult]:
    """Train and judge a configuration fold by fold; stop iterating to give it up.

    Yields a look wherever a fold's validation images are looked at before its last epoch, and the
    result of every fold. The last epoch's model is judged: the fold that is scored chooses nothing.
    The result is a function of the arguments alone, not of the worker or of the trials before.

    Args:
        data: what to train and judge on.
        hyperparameters: the configuration.
        study_seed: seed of the study.
        trial_number: number of the trial, part of every seed.
        device: PyTorch's name of the device.
        cache: folder for what frozen stages give and for weights learned from phantoms; None keeps
            nothing.
        finished: folds that are already known and are passed through, not trained again.
        first_fold: index of the fold to begin with; the others follow in turn. What a fold gives
            does not depend on it.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    if hyperparameters.head == "logistic":
        try:
            yield from solve_folds(
                data,
                hyperparameters,
                study_seed=study_seed,
                trial_number=trial_number,
                device=device,
                cache=cache,
                finished=finished or {},
                first_fold=first_fold,
            )
        except NotConverged as error:
            raise TrainingDiverged(str(error)) from error
        return
    pixels = place_pixels(data.images, device)
    inputs: Inputs | None = None
    small: SmallStart | None = None
    for turn in range(len(data.folds)):
        index = (first_fold + turn) % len(data.folds)
        if finished is not None and index in finished:
            yield finished[index]
            continue
        started = time.perf_counter()
        seed = derive_seed(study_seed, trial_number, index, "fit")
        seed_everything(seed)
        model = make_model(hyperparameters, data.num_classes, cache, device).to(device)
        if hyperparameters.mask_weight > 0:
            # Every fold's own network gets the head that predicts masks.
            assert data.masks is not None, "checked when the study was prepared"
            known = place_pixels(data.masks, device)
            inputs = make_masked_inputs(model, pixels, known, hyperparameters, device)
        elif inputs is None:
            # Frozen stages are the same in every fold: what they give is looked up once.
            inputs = make_inputs(model, pixels, hyperparameters, cache, device)
            small = make_small_start(model, pixels, hyperparameters, cache, device)
        yield from _train_fold(data, index, model, inputs, small, hyperparameters, seed, started)


def _train_fold(
    data: DevelopmentSet,
    index: int,
    model: ImageClassifier,
    inputs: Inputs,
    small: SmallStart | None,
    hyperparameters: Hyperparameters,
    seed: int,
    started: float,
) -> Generator[Look | FoldResult]:
    """Train a network on one fold; yield looks and, last, the result."""
    fold, epochs = data.folds[index], hyperparameters.epochs
    truth = data.labels[fold.validation]
    train, monitor = _inner_split(data, fold.train, hyperparameters, seed)
    targets = torch.from_numpy(data.labels).to(model.mean.device)
    train_loss, val_epochs, val_auc = list[float](), list[int](), list[float]()
    every = max(1, math.ceil(epochs / NUM_CURVE_POINTS))
    log_probabilities = np.zeros((0, data.num_classes), dtype=np.float32)
    for epoch in fit(model, inputs, targets, train, monitor, hyperparameters, seed, small):
        if not math.isfinite(epoch.train_loss):
            raise TrainingDiverged(
                f"the training loss became {epoch.train_loss} in epoch {epoch.epoch} "
                f"of fold {index}"
            )
        train_loss.append(epoch.train_loss)
        last = epoch.stopped or epoch.epoch == epochs
        if not last and epoch.epoch % every != 0:
            continue
        # On the way the image alone: averaging over views takes up to 18 times as long.
        shown = small.inputs if small is not None and epoch.epoch <= small.epochs else inputs
        log_probabilities = predict_log_probabilities(model, shown, fold.validation, views=last)
        val_epochs.append(epoch.epoch)
        val_auc.append(metrics.auc(log_probabilities, truth, positive=data.positive))
        # While only the head learns, or on small images, nothing is given up for what is seen.
        if not last and not epoch.beginning:
            yield Look(index, epoch.epoch, epochs, tuple(val_auc))
    model.mask_head = None
    if not np.isfinite(log_probabilities).all():
        raise TrainingDiverged(f"the predictions of fold {index} are not finite")
    yield FoldResult(
        fold=index,
        log_probabilities=log_probabilities,
        metrics=metrics.compute_metrics(
            metrics.softmax(log_probabilities), truth, positive=data.positive
        ),
        train_loss=tuple(train_loss),
        val_epochs=tuple(val_epochs),
        val_auc=tuple(val_auc),
        image_passes=len(train_loss) * len(train),
        seconds=time.perf_counter() - started,
        model=model,
    )


def _inner_split(
    data: DevelopmentSet, train: Indices, hyperparameters: Hyperparameters, seed: int
) -> tuple[Indices, Indices | None]:
    """Hold out a grouped, stratified part of the training images, if something watches it."""
    if not make_schedule(hyperparameters).needs_monitor:
        return train, None
    labels, groups = data.labels[train], data.groups[train]
    inner = make_folds(labels, groups, num_folds=INNER_FOLDS, seed=seed)[0]
    return train[inner.train], train[inner.validation]
