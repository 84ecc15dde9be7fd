"""From a configuration to its parts: network, inputs, schedule, training."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from busi_search.spec import Hyperparameters
from busi_search.training.augment import AugmentationRanges, augment_batch, mixup
from busi_search.training.feature_cache import load_features
from busi_search.training.fit import EpochResult, fit_fold, make_optimizer
from busi_search.training.freezing import freeze_backbone
from busi_search.training.inputs import (
    Augmentation,
    FeatureInputs,
    Inputs,
    MaskedInputs,
    PixelInputs,
)
from busi_search.training.losses import LossFunction, balanced_class_weights
from busi_search.training.pretraining import phantom_weights
from busi_search.training.schedule import Schedule
from busi_search.training.weights import load_backbone, load_weights
from busi_search.training.zoo import ImageClassifier, build_model

Indices = npt.NDArray[np.int64]

VIEW_STRENGTHS = 4


def make_model(
    hyperparameters: Hyperparameters, num_classes: int, cache: Path | None, device: str
) -> ImageClassifier:
    """Return a configuration's network with the weights it starts from, its first stages frozen."""
    model = build_model(
        hyperparameters.architecture,
        num_classes=num_classes,
        head=hyperparameters.head,
        head_width=hyperparameters.head_width,
        dropout=hyperparameters.dropout,
        normalisation=_normalisation(hyperparameters),
        image_size_pixels=hyperparameters.image_size_pixels,
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
        load_backbone(model, hyperparameters.architecture, learned, "phantom")
    else:
        load_weights(
            model,
            hyperparameters.architecture,
            hyperparameters.weights,
            hyperparameters.image_size_pixels,
        )
    # A searched depth may exceed the stages of a small architecture: only its head learns then.
    freeze_backbone(model, min(hyperparameters.freeze_depth, len(model.stages)))
    return model


def _normalisation(hyperparameters: Hyperparameters) -> str:
    """Grey levels as the weights expect them: a file's like the network's own ImageNet weights."""
    if hyperparameters.normalisation != "auto":
        return hyperparameters.normalisation
    if hyperparameters.weights in ("none", "phantom"):
        return "scratch"
    return "pretrained"


def fit(
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
        schedule=make_schedule(hyperparameters),
        epochs=hyperparameters.epochs,
        batch_size=hyperparameters.batch_size,
        freeze_depth=hyperparameters.freeze_depth,
        balanced_sampling=hyperparameters.balanced_sampling,
        seed=seed,
        weight_averaging=hyperparameters.weight_averaging,
        precise_batch_norm=hyperparameters.precise_batch_norm,
    )


def make_inputs(
    model: ImageClassifier,
    pixels: Tensor,
    hyperparameters: Hyperparameters,
    cache: Path | None,
    device: str,
) -> Inputs:
    """Pixels augmented anew each time, or, where stages are frozen, views computed once."""
    depth = min(hyperparameters.freeze_depth, len(model.stages))
    if depth == 0 or hyperparameters.augmentation_views == 0 or hyperparameters.weights == "none":
        return PixelInputs(pixels, _make_augmentation(hyperparameters), device)
    # Trials share what was computed only where they augment alike.
    coarse = round(hyperparameters.augmentation_strength * VIEW_STRENGTHS) / VIEW_STRENGTHS
    ranges = augmentation_ranges(hyperparameters)
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
        mix=partial(mixup, alpha=hyperparameters.mixup_alpha),
        device=device,
    )


def make_masked_inputs(
    model: ImageClassifier,
    pixels: Tensor,
    masks: Tensor,
    hyperparameters: Hyperparameters,
    device: str,
) -> Inputs:
    """Pixels with masks; the model gets the head that predicts them."""
    model.add_mask_head(hyperparameters.image_size_pixels)
    augmentation = _make_augmentation(hyperparameters)
    return MaskedInputs(pixels, masks, augmentation, hyperparameters.mask_weight, device)


def _make_augmentation(hyperparameters: Hyperparameters) -> Augmentation:
    """Return a function that alters a batch of pixels and then blends its images."""
    strength, ranges = hyperparameters.augmentation_strength, augmentation_ranges(hyperparameters)
    alpha = hyperparameters.mixup_alpha

    def augment(
        pixels: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        altered = augment_batch(pixels, strength, generator, ranges)
        return mixup(altered, targets, generator, alpha=alpha)

    return augment


def augmentation_ranges(hyperparameters: Hyperparameters) -> AugmentationRanges:
    """Return what a configuration's augmentation does at strength 1."""
    names = [field.name for field in fields(AugmentationRanges)]
    return AugmentationRanges(**{name: getattr(hyperparameters, name) for name in names})


def make_schedule(hyperparameters: Hyperparameters) -> Schedule:
    """Return how a configuration's learning rate moves and when its training stops."""
    return Schedule(
        hyperparameters.scheduler,
        early_stopping_patience=hyperparameters.early_stopping_patience,
        plateau_factor=hyperparameters.plateau_factor,
        plateau_patience=hyperparameters.plateau_patience,
        min_learning_rate=hyperparameters.min_learning_rate,
        warmup_epochs=hyperparameters.warmup_epochs,
    )
