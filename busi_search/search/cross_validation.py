"""One configuration on every fold: each image is predicted by a model that never saw it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from busi_search.data.folds import Fold, make_folds
from busi_search.search.fold_result import FoldResult
from busi_search.seeding import derive_seed, seed_everything
from busi_search.spec import Hyperparameters
from busi_search.training import metrics
from busi_search.training.augment import AugmentationRanges, augment_batch, mixup
from busi_search.training.feature_cache import load_features
from busi_search.training.fit import (
    EpochResult,
    Schedule,
    fit_fold,
    make_optimizer,
    predict_log_probabilities,
)
from busi_search.training.freezing import freeze_backbone
from busi_search.training.inputs import (
    FeatureInputs,
    Inputs,
    MaskedInputs,
    PixelInputs,
    place_pixels,
)
from busi_search.training.losses import LossFunction, balanced_class_weights
from busi_search.training.pretraining import phantom_weights
from busi_search.training.weights import load_weights
from busi_search.training.zoo import ImageClassifier, build_model

Indices = npt.NDArray[np.int64]

# Called with a fold, an epoch and the validation AUC at every look until then.
Watch = Callable[[int, int, Sequence[float]], None]

NUM_CURVE_POINTS = 8
INNER_FOLDS = 6
VIEW_STRENGTHS = 4


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
        model = _make_model(hyperparameters, num_classes, cache, device).to(device)
        if hyperparameters.mask_weight > 0:
            # Every fold's own network gets the head that predicts masks.
            assert masks is not None, "checked when the study was prepared"
            known = place_pixels(masks, device)
            inputs = _masked_inputs(model, pixels, known, hyperparameters, device)
        elif inputs is None:
            # Frozen stages are the same in every fold: what they give is looked up once.
            inputs = _inputs(model, pixels, hyperparameters, cache, device)
        epochs = list[EpochResult]()
        val_epochs, val_auc = list[int](), list[float]()
        truth = labels[fold.validation]
        every = max(1, math.ceil(hyperparameters.epochs / NUM_CURVE_POINTS))
        log_probabilities = np.zeros((0, num_classes), dtype=np.float32)
        for epoch in _fit(model, inputs, targets, train, monitor, hyperparameters, seed):
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


def _make_model(
    hyperparameters: Hyperparameters, num_classes: int, cache: Path | None, device: str
) -> ImageClassifier:
    model = build_model(
        hyperparameters.architecture,
        num_classes=num_classes,
        head=hyperparameters.head,
        head_width=hyperparameters.head_width,
        dropout=hyperparameters.dropout,
        normalisation=_normalisation(hyperparameters),
        test_time_flip=hyperparameters.test_time_flip,
        test_time_shift=hyperparameters.test_time_shift,
    )
    if hyperparameters.weights == "phantom":
        learned = phantom_weights(
            hyperparameters.architecture,
            hyperparameters.image_size_pixels,
            device=device,
            folder=None if cache is None else cache / "weights",
        )
        model.load_state_dict(learned, strict=False)
    else:
        load_weights(model, hyperparameters.architecture, hyperparameters.weights)
    # A searched depth may exceed the stages of a small architecture: only its head learns then.
    freeze_backbone(model, min(hyperparameters.freeze_depth, len(model.stages)))
    return model


def _normalisation(hyperparameters: Hyperparameters) -> str:
    """Grey levels as the weights expect them: those from files as ImageNet's unless stated."""
    if hyperparameters.normalisation != "auto":
        return hyperparameters.normalisation
    return "scratch" if hyperparameters.weights in ("none", "phantom") else "imagenet"


def _fit(
    model: ImageClassifier,
    inputs: Inputs,
    targets: Tensor,
    train: Indices,
    monitor: Indices | None,
    hyperparameters: Hyperparameters,
    seed: int,
) -> Iterator[EpochResult]:
    """Put the pieces a configuration names together and train with them."""
    weights = None
    if hyperparameters.class_weighting == "balanced":
        num_classes = int(targets.max()) + 1
        weights = balanced_class_weights(targets[torch.from_numpy(train)], num_classes)
    return fit_fold(
        model,
        inputs,
        targets,
        train=train,
        monitor=monitor,
        optimizer=make_optimizer(
            model,
            hyperparameters.optimizer,
            learning_rate=hyperparameters.learning_rate,
            weight_decay=hyperparameters.weight_decay,
        ),
        loss_function=LossFunction(
            hyperparameters.loss,
            label_smoothing=hyperparameters.label_smoothing,
            class_weights=weights,
            focal_gamma=hyperparameters.focal_gamma,
        ),
        schedule=_schedule(hyperparameters),
        epochs=hyperparameters.epochs,
        batch_size=hyperparameters.batch_size,
        freeze_depth=hyperparameters.freeze_depth,
        balanced_sampling=hyperparameters.balanced_sampling,
        seed=seed,
        weight_averaging=hyperparameters.weight_averaging,
    )


def _inputs(
    model: ImageClassifier,
    pixels: Tensor,
    hyperparameters: Hyperparameters,
    cache: Path | None,
    device: str,
) -> Inputs:
    """Pixels augmented anew each time, or, where stages are frozen, views computed once."""
    strength, ranges = hyperparameters.augmentation_strength, _ranges(hyperparameters)
    alpha = hyperparameters.mixup_alpha
    depth = min(hyperparameters.freeze_depth, len(model.stages))
    if depth == 0 or hyperparameters.augmentation_views == 0 or hyperparameters.weights == "none":
        augmentation = partial(_augment, strength=strength, ranges=ranges, alpha=alpha)
        return PixelInputs(pixels, augmentation, device)
    # Trials share what was computed only where they augment alike.
    coarse = round(strength * VIEW_STRENGTHS) / VIEW_STRENGTHS
    features = load_features(
        model,
        pixels,
        depth=depth,
        num_views=hyperparameters.augmentation_views,
        augment=lambda images, generator: augment_batch(images, coarse, generator, ranges),
        settings={"strength": coarse, **asdict(ranges)},
        folder=None if cache is None else cache / "features",
    )
    return FeatureInputs(
        features,
        depth=depth,
        num_views=hyperparameters.augmentation_views,
        mix=partial(_mix, alpha=alpha),
        device=device,
    )


def _masked_inputs(
    model: ImageClassifier,
    pixels: Tensor,
    masks: Tensor,
    hyperparameters: Hyperparameters,
    device: str,
) -> Inputs:
    """Pixels with masks; the model gets the head that predicts them."""
    model.add_mask_head(hyperparameters.image_size_pixels)
    augmentation = partial(
        _augment,
        strength=hyperparameters.augmentation_strength,
        ranges=_ranges(hyperparameters),
        alpha=hyperparameters.mixup_alpha,
    )
    return MaskedInputs(pixels, masks, augmentation, hyperparameters.mask_weight, device)


def _mix(
    features: Tensor, targets: Tensor, generator: torch.Generator, *, alpha: float
) -> tuple[Tensor, Tensor]:
    return mixup(features, targets, alpha, generator)


def _augment(
    pixels: Tensor,
    targets: Tensor,
    generator: torch.Generator,
    *,
    strength: float,
    ranges: AugmentationRanges,
    alpha: float,
) -> tuple[Tensor, Tensor]:
    return mixup(augment_batch(pixels, strength, generator, ranges), targets, alpha, generator)


def _ranges(hyperparameters: Hyperparameters) -> AugmentationRanges:
    names = [field.name for field in fields(AugmentationRanges)]
    return AugmentationRanges(**{name: getattr(hyperparameters, name) for name in names})


def _schedule(hyperparameters: Hyperparameters) -> Schedule:
    return Schedule(
        hyperparameters.scheduler,
        early_stopping_patience=hyperparameters.early_stopping_patience,
        plateau_factor=hyperparameters.plateau_factor,
        plateau_patience=hyperparameters.plateau_patience,
        min_learning_rate=hyperparameters.min_learning_rate,
        warmup_epochs=hyperparameters.warmup_epochs,
    )


def _inner_split(
    train: Indices, labels: Indices, groups: Indices, hyperparameters: Hyperparameters, seed: int
) -> tuple[Indices, Indices | None]:
    """Hold out a grouped, stratified part of the training images, if something watches it."""
    if not _schedule(hyperparameters).needs_monitor:
        return train, None
    inner = make_folds(labels[train], groups[train], num_folds=INNER_FOLDS, seed=seed)[0]
    return train[inner.train], train[inner.validation]
