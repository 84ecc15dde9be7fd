"""One configuration on every fold: each image is predicted by a model that never saw it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from busi_search.data.folds import Fold, make_folds
from busi_search.search.context import StudyContext, masks_for
from busi_search.search.fold_result import FoldResult
from busi_search.seeding import derive_seed, seed_everything
from busi_search.spec import Hyperparameters
from busi_search.training import metrics
from busi_search.training.fit import EpochResult, predict_log_probabilities
from busi_search.training.from_hyperparameters import (
    fit,
    make_inputs,
    make_masked_inputs,
    make_model,
    make_schedule,
)
from busi_search.training.inputs import Inputs, place_pixels

Indices = npt.NDArray[np.int64]

# Called with a fold, an epoch and the validation AUC at every look until then.
Watch = Callable[[int, int, Sequence[float]], None]

NUM_CURVE_POINTS = 8
INNER_FOLDS = 6


class TrainingDiverged(ArithmeticError):
    """The loss is no longer a finite number; the configuration cannot be trained."""


def cross_validate(
    images: npt.NDArray[np.uint8],
    labels: Indices,
    groups: Indices,
    folds: Sequence[Fold],
    hyperparameters: Hyperparameters,
    *,
    num_classes: int,
    positive: int,
    study_seed: int,
    trial_number: int,
    device: str = "cpu",
    finished: Mapping[int, FoldResult] | None = None,
    cache: Path | None = None,
    masks: npt.NDArray[np.uint8] | None = None,
    watch: Watch | None = None,
    first_fold: int = 0,
) -> Iterator[FoldResult]:
    """Train and judge a configuration fold by fold; stop iterating to prune.

    The last epoch's model is judged: the fold that is scored chooses nothing. The result is a
    function of the arguments alone, not of the worker or of the trials before.

    Args:
        images: (N, S, S) uint8 development images at the configuration's size.
        labels: (N,) classes.
        groups: (N,) groups; an inner split for early stopping keeps them together.
        folds: divisions of ``range(N)``.
        hyperparameters: the configuration.
        num_classes: C.
        positive: the class that binary figures are about.
        study_seed: seed of the study.
        trial_number: number of the trial, part of every seed.
        device: PyTorch's name of the device.
        finished: folds that are already known and are passed through, not trained again.
        masks: (N, S, S) uint8 lesion masks, needed where ``mask_weight`` is not 0.
        cache: folder for what frozen stages give and for weights learned from phantoms; None keeps
            nothing.
        watch: told of every look at the validation images before the last epoch; what it raises
            gives the configuration up.
        first_fold: index of the fold to begin with; the others follow in turn. What a fold gives
            does not depend on it.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    pixels = place_pixels(images, device)
    targets = torch.from_numpy(labels).to(device)
    inputs: Inputs | None = None
    for turn in range(len(folds)):
        index = (first_fold + turn) % len(folds)
        if finished is not None and index in finished:
            yield finished[index]
            continue
        fold = folds[index]
        started = time.perf_counter()
        seed = derive_seed(study_seed, trial_number, index, "fit")
        train, monitor = _inner_split(fold.train, labels, groups, hyperparameters, seed)
        seed_everything(seed)
        model = make_model(hyperparameters, num_classes, cache, device).to(device)
        if hyperparameters.mask_weight > 0:
            # Every fold's own network gets the head that predicts masks.
            assert masks is not None, "checked when the study was prepared"
            known = place_pixels(masks, device)
            inputs = make_masked_inputs(model, pixels, known, hyperparameters, device)
        elif inputs is None:
            # Frozen stages are the same in every fold: what they give is looked up once.
            inputs = make_inputs(model, pixels, hyperparameters, cache, device)
        epochs = list[EpochResult]()
        val_epochs, val_auc = list[int](), list[float]()
        truth = labels[fold.validation]
        every = max(1, math.ceil(hyperparameters.epochs / NUM_CURVE_POINTS))
        log_probabilities = np.zeros((0, num_classes), dtype=np.float32)
        for epoch in fit(model, inputs, targets, train, monitor, hyperparameters, seed):
            if not math.isfinite(epoch.train_loss):
                raise TrainingDiverged(
                    f"the training loss became {epoch.train_loss} in epoch {epoch.epoch} "
                    f"of fold {index}"
                )
            epochs.append(epoch)
            last = epoch.stopped or epoch.epoch == hyperparameters.epochs
            if last or epoch.epoch % every == 0:
                # On the way the image alone: averaging over views takes up to 18 times as long.
                log_probabilities = predict_log_probabilities(
                    model, inputs, fold.validation, views=last
                )
                val_epochs.append(epoch.epoch)
                val_auc.append(metrics.auc(log_probabilities, truth, positive=positive))
                if watch is not None and not last:
                    watch(index, epoch.epoch, val_auc)
        model.mask_head = None
        if not np.isfinite(log_probabilities).all():
            raise TrainingDiverged(f"the predictions of fold {index} are not finite")
        yield FoldResult(
            fold=index,
            log_probabilities=log_probabilities,
            metrics=metrics.compute_metrics(
                metrics.softmax(log_probabilities), truth, positive=positive
            ),
            train_loss=tuple(epoch.train_loss for epoch in epochs),
            val_epochs=tuple(val_epochs),
            val_auc=tuple(val_auc),
            image_passes=len(epochs) * len(train),
            seconds=time.perf_counter() - started,
            model=model,
        )


def cross_validate_configuration(
    context: StudyContext,
    hyperparameters: Hyperparameters,
    *,
    trial_number: int,
    study_seed: int | None = None,
    folds: Sequence[Fold] | None = None,
    groups: Indices | None = None,
    finished: Mapping[int, FoldResult] | None = None,
    watch: Watch | None = None,
    first_fold: int = 0,
) -> Iterator[FoldResult]:
    """Train and judge a configuration on a study's images, as ``cross_validate`` does.

    Args:
        context: the study.
        hyperparameters: the configuration.
        trial_number: number of the trial, part of every seed.
        study_seed: another seed than the study's.
        folds: others than the study's.
        groups: (N,) others than the study's.
        finished: see ``cross_validate``, as for the following.
        watch: told of every look at the validation images.
        first_fold: index of the fold to begin with.

    Raises:
        TrainingDiverged: the loss is not finite.
    """
    return cross_validate(
        context.images(hyperparameters.image_size_pixels),
        context.development.labels,
        context.groups if groups is None else groups,
        context.partition.folds if folds is None else folds,
        hyperparameters,
        num_classes=len(context.development.class_names),
        positive=context.development.positive,
        study_seed=context.spec.study.seed if study_seed is None else study_seed,
        trial_number=trial_number,
        device=context.device,
        finished=finished,
        cache=context.home.cache,
        masks=masks_for(context, hyperparameters),
        watch=watch,
        first_fold=first_fold,
    )


def _inner_split(
    train: Indices, labels: Indices, groups: Indices, hyperparameters: Hyperparameters, seed: int
) -> tuple[Indices, Indices | None]:
    """Hold out a grouped, stratified part of the training images, if something watches it."""
    if not make_schedule(hyperparameters).needs_monitor:
        return train, None
    inner = make_folds(labels[train], groups[train], num_folds=INNER_FOLDS, seed=seed)[0]
    return train[inner.train], train[inner.validation]
