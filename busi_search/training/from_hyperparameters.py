"""From a configuration to its parts: network, inputs, schedule, training."""

from collections.abc import Iterator
from dataclasses import asdict, fields
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from busi_search.data.geometry import geometry_of
from busi_search.errors import InputError
from busi_search.spec import Hyperparameters
from busi_search.training.augment import AugmentationRanges, augment_batch, mixup
from busi_search.training.classifier import ImageClassifier
from busi_search.training.feature_bank import augmented_views, load_bank, test_time_views
from busi_search.training.feature_cache import load_features, state_shapes
from busi_search.training.fit import EpochResult, SmallStart, fit_fold, make_optimizer
from busi_search.training.freezing import StageRates, freeze_backbone
from busi_search.training.inputs import (
    Augmentation,
    FeatureInputs,
    Inputs,
    MaskedInputs,
    PixelInputs,
    shrink_pixels,
)
from busi_search.training.losses import LossFunction, balanced_class_weights
from busi_search.training.pretraining import phantom_weights
from busi_search.training.schedule import Schedule
from busi_search.training.stochastic_depth import set_stochastic_depth
from busi_search.training.weights import load_backbone, load_weights
from busi_search.training.zoo import build_model

Indices = npt.NDArray[np.int64]

VIEW_STRENGTHS = 4


def make_model(
    hyperparameters: Hyperparameters, num_classes: int, cache: Path | None, device: str
) -> ImageClassifier:
    """Return a configuration's network with the weights it starts from, its first stages frozen."""
    model = build_model(
        hyperparameters.architecture,
        num_classes=num_classes,
        # A logistic head is a linear one whose weights are solved for instead of trained.
        head="linear" if hyperparameters.head == "logistic" else hyperparameters.head,
        head_width=hyperparameters.head_width,
        dropout=hyperparameters.dropout,
        normalisation=_normalisation(hyperparameters),
        image_size_pixels=hyperparameters.image_size_pixels,
        test_time_flip=hyperparameters.test_time_flip,
        test_time_shift=hyperparameters.test_time_shift,
        pooling=hyperparameters.pooling,
        feature_layers=hyperparameters.feature_layers,
        num_regions=geometry_of(hyperparameters).num_regions,
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
    rate = hyperparameters.stochastic_depth
    if rate is not None and set_stochastic_depth(model, rate) == 0 and rate > 0:
        raise InputError(
            f"stochastic_depth = {rate} needs residual blocks, and {hyperparameters.architecture} "
            "has none; set it to 0."
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
    small: SmallStart | None = None,
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
            rates=StageRates(
                hyperparameters.backbone_learning_rate_ratio, hyperparameters.layer_decay
            ),
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
        average_last_epochs=hyperparameters.average_last_epochs,
        head_only_epochs=_head_only_epochs(hyperparameters, len(model.stages)),
        small=small,
    )


def _head_only_epochs(hyperparameters: Hyperparameters, num_stages: int) -> int:
    """Return the epochs before the backbone is trained; 0 where it never is."""
    return hyperparameters.head_only_epochs if hyperparameters.freeze_depth < num_stages else 0


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
        return PixelInputs(pixels, _make_augmentation(hyperparameters, model.num_regions), device)
    # Trials share what was computed only where they augment alike.
    coarse = round(hyperparameters.augmentation_strength * VIEW_STRENGTHS) / VIEW_STRENGTHS
    ranges = augmentation_ranges(hyperparameters)
    features = load_features(
        model,
        pixels,
        depth=depth,
        num_views=hyperparameters.augmentation_views,
        augment=partial(augment_regions, strength=coarse, ranges=ranges, regions=model.num_regions),
        settings={"strength": coarse, **asdict(ranges)},
        folder=None if cache is None else cache / "features",
    )
    return FeatureInputs(
        features,
        depth=depth,
        num_views=hyperparameters.augmentation_views,
        mix=partial(mixup, alpha=hyperparameters.mixup_alpha),
        device=device,
        shapes=state_shapes(model, pixels.shape[-1], depth=depth),
    )


def load_frozen_features(
    model: ImageClassifier,
    pixels: Tensor,
    hyperparameters: Hyperparameters,
    cache: Path | None,
    *,
    begin_at: int = 0,
) -> npt.NDArray[np.float32]:
    """Return what the head of a wholly frozen network sees of every image in every view.

    Args:
        model: the network.
        pixels: (N, 1, S, S) uint8.
        hyperparameters: its configuration.
        cache: folder for the features; None keeps nothing.
        begin_at: see :func:`~.feature_bank.load_bank`.

    Returns:
        (views + V, N, F): the augmented views, then the model's V test-time views, of which the
        first is the image as it is.
    """
    coarse = round(hyperparameters.augmentation_strength * VIEW_STRENGTHS) / VIEW_STRENGTHS
    ranges = augmentation_ranges(hyperparameters)
    altered = augmented_views(
        lambda images, generator: augment_batch(images, coarse, generator, ranges),
        hyperparameters.augmentation_views,
        {"strength": coarse, **asdict(ranges)},
    )
    folder = None if cache is None else cache / "features"
    views = [*altered, *test_time_views(model)]
    return load_bank(model, pixels, views, folder=folder, begin_at=begin_at)


def make_small_start(
    model: ImageClassifier,
    pixels: Tensor,
    hyperparameters: Hyperparameters,
    cache: Path | None,
    device: str,
) -> SmallStart | None:
    """Return the smaller images that a configuration's first epochs see, or None."""
    if hyperparameters.start_image_size_ratio == 1:
        return None
    ratio, full = hyperparameters.start_image_size_ratio, pixels.shape[-1]
    side = round(ratio * full)
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(1, model.num_regions, side, side, device=model.mean.device))
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"{hyperparameters.architecture} takes images of {full} px only, and "
            f"start_image_size_ratio = {ratio} gives it {side} px; set it to 1.0."
        ) from error
    inputs = make_inputs(model, shrink_pixels(pixels, side), hyperparameters, cache, device)
    return SmallStart(inputs, hyperparameters.epochs - hyperparameters.full_size_epochs)


def make_masked_inputs(
    model: ImageClassifier,
    pixels: Tensor,
    masks: Tensor,
    hyperparameters: Hyperparameters,
    device: str,
) -> Inputs:
    """Pixels with masks; the model gets the head that predicts them."""
    model.add_mask_head(hyperparameters.image_size_pixels)
    augmentation = _make_augmentation(hyperparameters, model.num_regions)
    return MaskedInputs(pixels, masks, augmentation, hyperparameters.mask_weight, device)


def _make_augmentation(hyperparameters: Hyperparameters, regions: int) -> Augmentation:
    """Return a function that alters a batch of pixels and then blends its images."""
    strength, ranges = hyperparameters.augmentation_strength, augmentation_ranges(hyperparameters)
    alpha = hyperparameters.mixup_alpha

    def augment(
        pixels: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        altered = augment_regions(
            pixels, generator, strength=strength, ranges=ranges, regions=regions
        )
        return mixup(altered, targets, generator, alpha=alpha)

    return augment


def augment_regions(
    pixels: Tensor,
    generator: torch.Generator,
    *,
    strength: float,
    ranges: AugmentationRanges,
    regions: int,
) -> Tensor:
    """Alter a batch; every region of an image has draws of its own, and its mask goes with it.

    Args:
        pixels: (B, K, S, S) grey levels of K regions, or (B, 2·K, S, S): then their masks.
        generator: source of randomness, on the CPU.
        strength: in [0, 1].
        ranges: what strength 1 means.
        regions: K.

    Returns:
        The same, altered as by :func:`~.augment.augment_batch`.
    """
    if regions == 1:
        return augment_batch(pixels, strength, generator, ranges)
    # (B, J·K, …), J = 2 with masks, becomes (B·K, J, …).
    num_images, channels, height, width = pixels.shape
    apart = pixels.reshape(num_images, -1, regions, height, width).transpose(1, 2).flatten(0, 1)
    altered = augment_batch(apart, strength, generator, ranges)
    by_region = altered.reshape(num_images, regions, -1, height, width)
    return by_region.transpose(1, 2).reshape(num_images, channels, height, width)


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
