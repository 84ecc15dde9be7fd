"""From the name of an architecture to a network that takes grey pixels and gives logits."""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import nn

from busi_search.architectures import ARCHITECTURES, is_timm
from busi_search.errors import InputError
from busi_search.training.backbones import FAMILIES
from busi_search.training.classifier import ImageClassifier
from busi_search.training.readout import LastStage, Readout
from busi_search.training.timm_backbones import MIN_SIZE_PIXELS, build_timm_backbone

# Mean and deviation of grey levels in [0, 1] that a network expects. Fixed numbers, so that nothing
# is estimated from images a fold must not see. ``scratch`` is near those of breast ultrasound,
# ``half`` maps to [-1, 1] as RadImageNet's weights expect; ``efficientnet_lite`` is
# (grey - 127) / 128.
NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "scratch": ((0.25,), (0.25,)),
    "half": ((0.5,), (0.5,)),
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "efficientnet_lite": ((127 / 255,) * 3, (128 / 255,) * 3),
}


def _make_head(
    kind: str, num_features: int, num_classes: int, *, width: int, dropout: float
) -> nn.Module:
    if kind == "linear":
        return nn.Sequential(nn.Dropout(dropout), nn.Linear(num_features, num_classes))
    return nn.Sequential(
        nn.Dropout(dropout),
        nn.Linear(num_features, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Dropout(min(dropout, 0.5)),
        nn.Linear(width, num_classes),
    )


@dataclass(frozen=True)
class _Backbone:
    """Stages, and what a classifier must know of them."""

    stages: list[nn.Module]
    num_features: int
    channels: int
    min_size_pixels: int
    normalisation: tuple[tuple[float, ...], tuple[float, ...]]
    pool_at: int | None = None
    channels_last: bool = False


def _build_backbone(architecture: str, image_size_pixels: int | None) -> _Backbone:
    if is_timm(architecture):
        found = build_timm_backbone(architecture, image_size_pixels)
        return _Backbone(
            found.stages, found.num_features, 3, MIN_SIZE_PIXELS, (found.mean, found.std)
        )
    entry = ARCHITECTURES.get(architecture)
    if entry is None:
        raise InputError(f"No architecture '{architecture}'; known: {', '.join(ARCHITECTURES)}.")
    family = FAMILIES[entry.family]
    stages = family.split(family.make(entry.variant))
    assert len(stages) == entry.num_stages, "the table must state the number of stages"
    return _Backbone(
        stages,
        entry.num_features,
        entry.channels,
        entry.min_size_pixels,
        NORMALISATIONS[entry.normalisation],
        family.pool_at,
        family.channels_last,
    )


def build_model(
    architecture: str,
    *,
    num_classes: int,
    head: str = "linear",
    head_width: int = 128,
    dropout: float = 0.0,
    normalisation: str = "scratch",
    image_size_pixels: int | None = None,
    test_time_flip: bool = False,
    test_time_shift: int = 0,
    pooling: str = "avg",
    feature_layers: int = 1,
    num_regions: int = 1,
) -> ImageClassifier:
    """Build a classifier with random weights, drawn from PyTorch's global generator.

    Args:
        architecture: a key of ``ARCHITECTURES``, or ``timm/NAME``.
        num_classes: C.
        head: ``linear`` (dropout, dense) or ``mlp`` (dropout, dense, batch norm, ReLU,
            dropout of at most one half, dense).
        head_width: width of the hidden layer of ``mlp``.
        dropout: probability in [0, 1).
        normalisation: a key of ``NORMALISATIONS``, or ``pretrained``: what the architecture's
            ImageNet weights expect; on one channel, the mean over its channels.
        image_size_pixels: height and width of the images, which some of timm's networks are built
            for; None: those of its pretrained weights.
        test_time_flip: predict with the average over an image and its mirror image.
        test_time_shift: predict with the average over an image and the same moved by this many
            pixels in eight directions; 0: not.
        pooling: ``avg`` (the pooling that the architecture has), ``max``, ``gem``, ``avgmax`` or
            ``attention``.
        feature_layers: number of last stages whose outputs the head sees; of a network with fewer,
            all.
        num_regions: K, how many regions of an image the network sees.

    Raises:
        InputError: no such architecture, it does not take images of that size, or it has no maps
            that could be pooled otherwise.
    """
    backbone = _build_backbone(architecture, image_size_pixels)
    mean, std = backbone.normalisation
    if normalisation != "pretrained":
        mean, std = NORMALISATIONS[normalisation]
    if backbone.channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    readout: Readout | None = None
    num_features = backbone.num_features
    if pooling != "avg" or feature_layers > 1:
        readout, num_features = _make_readout(architecture, backbone, pooling, feature_layers)
    model = ImageClassifier(
        backbone.stages,
        _make_head(
            head,
            num_regions * num_features,
            num_classes,
            width=head_width,
            dropout=dropout,
        ),
        channels=backbone.channels,
        min_size_pixels=backbone.min_size_pixels,
        mean=mean,
        std=std,
        test_time_flip=test_time_flip,
        test_time_shift=test_time_shift,
        readout=readout,
        pool_at=backbone.pool_at,
        maps_channels_last=backbone.channels_last,
        num_regions=num_regions,
    )
    # Twice as fast on a CPU for small networks, and what tensor cores want on a GPU.
    return model.to(memory_format=torch.channels_last)


# Large enough for every architecture; nothing is computed, only shapes.
_TRIAL_SIZE_PIXELS = 64


@dataclass(frozen=True)
class StageWidths:
    """How many numbers an image has behind each stage of a convolutional network.

    Attributes:
        channels: of the maps that each stage gives.
        features: of the vector that follows the pooling of the last stage's maps.
        features_of_one_cell: the same, where they are pooled to one cell.
    """

    channels: tuple[int, ...]
    features: int
    features_of_one_cell: int


@lru_cache(maxsize=64)
def stage_widths(architecture: str) -> StageWidths:
    """Return the widths of an architecture's stages; it must be a convolutional one."""
    entry = ARCHITECTURES[architecture]
    family = FAMILIES[entry.family]
    assert family.pool_at is not None, "checked before"
    # Without numbers: no weights are drawn and nothing is computed.
    with torch.device("meta"), torch.no_grad():
        stages = nn.ModuleList(family.split(family.make(entry.variant))).eval()
        side = max(_TRIAL_SIZE_PIXELS, entry.min_size_pixels)
        x = torch.zeros(1, entry.channels, side, side)
        channels = []
        for stage in list(stages)[:-1]:
            x = stage(x)
            channels.append(x.shape[-1] if family.channels_last else x.shape[1])
        last = LastStage(stages[-1], family.pool_at)
        width = last.maps(x).shape[1]
        features = [last.vector(torch.zeros(1, width, n, n)).shape[1] for n in (last.grid, 1)]
    return StageWidths((*channels, width), *features)


def _make_readout(
    architecture: str, backbone: _Backbone, pooling: str, feature_layers: int
) -> tuple[Readout, int]:
    """Return what pools the last stages of a network, and how many features that gives."""
    if backbone.pool_at is None:
        raise InputError(
            f'{architecture} has one pooling here; set pooling = "avg" and feature_layers = 1, or '
            "take another architecture: a convolutional one that is not timm's."
        )
    widths = stage_widths(architecture)
    # A searched number may exceed the stages of a small architecture: then all are read.
    channels = widths.channels[-feature_layers:]
    readout = Readout(pooling, channels, channels_last=backbone.channels_last)
    last = widths.features_of_one_cell if pooling == "attention" else widths.features
    times = 2 if pooling == "avgmax" else 1
    return readout, times * (sum(channels[:-1]) + last)
