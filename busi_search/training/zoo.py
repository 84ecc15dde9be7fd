"""The architectures: one table entry each."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from busi_search.errors import InputError

# Grey levels of a network trained from scratch are centred with these; ImageNet weights bring
# their own. Fixed numbers, so that nothing is estimated from images a fold must not see.
SCRATCH_MEAN = (0.25,)
SCRATCH_STD = (0.25,)
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """How to build a backbone.

    Attributes:
        build: returns the backbone's stages, first to last; together they map
            (N, channels, S, S) images to (N, num_features) features.
        num_features: width of the features.
        channels: input channels (1: grey as it is; 3: grey repeated).
        num_stages: number of stages that can be frozen.
    """

    build: Callable[[], list[nn.Module]]
    num_features: int
    channels: int
    num_stages: int


def _small_cnn() -> list[nn.Module]:
    """Three blocks of convolution, max-pool, batch norm and ELU; sized for 28–64 px.

    Pooling comes first, at a quarter of the work for the rest: ELU is monotone and would give the
    same after it; batch norm sees the pooled values, which is another network than the reverse.
    """
    widths = (1, 16, 32, 64)
    blocks: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        blocks.append(
            nn.Sequential(
                nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
                nn.MaxPool2d(2),
                nn.BatchNorm2d(outputs),
                nn.ELU(inplace=True),
            )
        )
    blocks[-1] = nn.Sequential(blocks[-1], nn.AdaptiveAvgPool2d(3), nn.Flatten())
    return blocks


def _resnet(name: str) -> Callable[[], list[nn.Module]]:
    def build() -> list[nn.Module]:
        import torchvision

        net: Any = getattr(torchvision.models, name)(weights=None)
        return [
            nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
            net.layer1,
            net.layer2,
            net.layer3,
            nn.Sequential(net.layer4, net.avgpool, nn.Flatten()),
        ]

    return build


def _mobilenet_v3_small() -> list[nn.Module]:
    import torchvision

    net: Any = torchvision.models.mobilenet_v3_small(weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            # torchvision's .01 needs thousands of steps until the running statistics are true; on
            # a few hundred images there are only hundreds.
            module.momentum = 0.1
    blocks = list(net.features)
    cuts = (0, 2, 4, 7, 9, len(blocks))
    stages: list[nn.Module] = [nn.Sequential(*blocks[start:stop]) for start, stop in pairwise(cuts)]
    stages[-1] = nn.Sequential(
        stages[-1], net.avgpool, nn.Flatten(), net.classifier[0], net.classifier[1]
    )
    return stages


ARCHITECTURES: dict[str, Architecture] = {
    "small_cnn": Architecture(_small_cnn, num_features=576, channels=1, num_stages=3),
    "resnet18": Architecture(_resnet("resnet18"), num_features=512, channels=3, num_stages=5),
    "resnet50": Architecture(_resnet("resnet50"), num_features=2048, channels=3, num_stages=5),
    "mobilenet_v3_small": Architecture(
        _mobilenet_v3_small, num_features=1024, channels=3, num_stages=5
    ),
}


class ImageClassifier(nn.Module):
    """Normalisation, a backbone in stages, and a head; grey pixels in, logits out."""

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stages: list[nn.Module],
        head: nn.Module,
        *,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.channels = channels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, S, S) grey levels in [0, 255] to (N, C) logits."""
        x = pixels / 255.0
        if self.channels > 1:
            x = x.expand(-1, self.channels, -1, -1)
        x = ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        for stage in self.stages:
            x = stage(x)
        logits: Tensor = self.head(x)
        return logits


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


def build_model(
    architecture: str,
    *,
    num_classes: int,
    head: str = "linear",
    head_width: int = 128,
    dropout: float = 0.0,
    imagenet_normalisation: bool = False,
) -> ImageClassifier:
    """Build a classifier with random weights, drawn from PyTorch's global generator.

    Args:
        architecture: a key of ``ARCHITECTURES``.
        num_classes: C.
        head: ``linear`` (dropout, dense) or ``mlp`` (dropout, dense, batch norm, ReLU,
            dropout of at most one half, dense).
        head_width: width of the hidden layer of ``mlp``.
        dropout: probability in [0, 1).
        imagenet_normalisation: normalise as ImageNet weights expect, not as from scratch.

    Raises:
        InputError: no such architecture.
    """
    entry = ARCHITECTURES.get(architecture)
    if entry is None:
        raise InputError(f"No architecture '{architecture}'; known: {', '.join(ARCHITECTURES)}.")
    stages = entry.build()
    assert len(stages) == entry.num_stages, "the table must state the number of stages"
    if imagenet_normalisation and entry.channels == 3:
        statistics: tuple[tuple[float, ...], tuple[float, ...]] = (IMAGENET_MEAN, IMAGENET_STD)
    else:
        statistics = (SCRATCH_MEAN, SCRATCH_STD)
    model = ImageClassifier(
        stages,
        _make_head(head, entry.num_features, num_classes, width=head_width, dropout=dropout),
        channels=entry.channels,
        mean=statistics[0],
        std=statistics[1],
    )
    # Twice as fast on a CPU for small networks, and what tensor cores want on a GPU.
    return model.to(memory_format=torch.channels_last)
