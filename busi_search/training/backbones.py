"""How each family of architectures is built and cut into stages that can be frozen."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from busi_search.training.efficientnet_lite import (
    EfficientNetLite,
    plain_name,
    split_efficientnet_lite,
)

Stages = list[nn.Module]


@dataclass(frozen=True)
class Family:
    """A way to build networks.

    Attributes:
        make: from a variant's name to a whole network with random weights.
        split: from such a network to its stages, first to last, its classifier left out; together
            they map (N, channels, S, S) images to (N, num_features) features.
        rename: from a published checkpoint's name of a tensor to the network's own.
        pool_at: position of the pooling among the children of the last stage; None for networks
            whose features are no pooled maps.
        channels_last: whether the stages before the last give (N, H, W, C) instead of (N, C, H, W).
    """

    make: Callable[[str], Any]
    split: Callable[[Any], Stages]
    rename: Callable[[str], str] = str
    pool_at: int | None = None
    channels_last: bool = False


def _torchvision(variant: str) -> Any:
    import torchvision

    net = getattr(torchvision.models, variant)(weights=None)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            # torchvision's 0.01 for mobile networks needs thousands of steps until the running
            # statistics are true; on a few hundred images there are only hundreds.
            module.momentum = max(module.momentum or 0.0, 0.1)
    return net


def _split_features(cuts: Sequence[int], tail: Callable[[Any], Stages]) -> Callable[[Any], Stages]:
    """Cut ``net.features`` before the named blocks; ``tail`` joins the last stage."""

    def split(net: Any) -> Stages:
        blocks = list(net.features)
        ends = [*cuts, len(blocks)]
        stages: Stages = [nn.Sequential(*blocks[start:stop]) for start, stop in pairwise(ends)]
        stages[-1] = nn.Sequential(stages[-1], *tail(net))
        return stages

    return split


def _split_resnet(net: Any) -> Stages:
    return [
        nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool),
        net.layer1,
        net.layer2,
        net.layer3,
        nn.Sequential(net.layer4, net.avgpool, nn.Flatten()),
    ]


def _small_resnet(variant: str) -> Any:
    net = _torchvision(variant)
    net.conv1 = nn.Conv2d(1, 64, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(net.conv1.weight, mode="fan_out", nonlinearity="relu")
    net.maxpool = nn.Identity()
    return net


class HarmonicConv2d(nn.Module):
    """A convolution whose kernels are sums of discrete cosine functions.

    Learned are the coefficients; by the linearity of convolution the filters are put together
    first and applied at the price of an ordinary convolution. With all K² frequencies it can
    express what an ordinary one can, from another starting point and along another path.

    Source: Ulicny, Krylov, Dahyot, Harmonic convolutional networks based on discrete cosine
    transform, Pattern Recognition 129 (2022).
    """

    basis: Tensor

    def __init__(self, inputs: int, outputs: int, *, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.register_buffer("basis", cosine_basis(size), persistent=False)
        self.coefficients = nn.Parameter(torch.empty(outputs, inputs, size * size))
        # As He et al. 2015 for a kernel: the basis is orthonormal, so variances carry over.
        nn.init.normal_(self.coefficients, std=math.sqrt(2 / (outputs * size * size)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H', W')."""
        kernels = torch.einsum("oif,fhw->oihw", self.coefficients, self.basis)
        return F.conv2d(x, kernels, stride=self.stride, padding=self.padding)


def cosine_basis(size: int) -> Tensor:
    """Return the (size², size, size) orthonormal basis of the two-dimensional DCT-II."""
    position = torch.arange(size) + 0.5
    rows = torch.stack([torch.cos(math.pi / size * u * position) for u in range(size)])
    rows[0] /= math.sqrt(2)
    rows *= math.sqrt(2 / size)
    return torch.einsum("uh,vw->uvhw", rows, rows).reshape(size * size, size, size)


def _harmonic_resnet(variant: str) -> Any:
    net = _small_resnet(variant)
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size[0] > 1:
                harmonic = HarmonicConv2d(
                    child.in_channels,
                    child.out_channels,
                    size=child.kernel_size[0],
                    stride=child.stride[0],
                    padding=int(child.padding[0]),
                )
                setattr(parent, name, harmonic)
    return net


class _ViTStem(nn.Module):
    """Patches, class token and position embedding, the last resized to the image at hand."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.class_token, self.conv_proj = net.class_token, net.conv_proj
        self.pos_embedding, self.dropout = net.encoder.pos_embedding, net.encoder.dropout
        self.patch = int(net.patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, S, S) to (N, 1 + patches, width); S is rounded up to whole patches."""
        side = -(-x.shape[-1] // self.patch)
        if x.shape[-1] % self.patch:
            pixels = side * self.patch
            x = F.interpolate(x, size=(pixels, pixels), mode="bilinear", antialias=False)
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        result: Tensor = self.dropout(tokens + self._positions(side))
        return result

    def _positions(self, side: int) -> Tensor:
        learned = self.pos_embedding[:, 1:]
        own = math.isqrt(learned.shape[1])
        whole: Tensor = self.pos_embedding
        if own == side:
            return whole
        grid = learned.transpose(1, 2).reshape(1, -1, own, own)
        grid = F.interpolate(grid, size=(side, side), mode="bicubic", align_corners=False)
        return torch.cat([whole[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class _FirstToken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        """Map (N, tokens, width) to the class token's (N, width)."""
        return x[:, 0]


def _split_vit(net: Any) -> Stages:
    layers = list(net.encoder.layers)
    quarters = [nn.Sequential(*layers[start : start + 3]) for start in range(0, len(layers), 3)]
    quarters[-1] = nn.Sequential(quarters[-1], net.encoder.ln, _FirstToken())
    return [_ViTStem(net), *quarters]


def _small_cnn(variant: str) -> nn.ModuleList:
    """Three blocks of convolution, max-pool, batch norm and ELU; sized for 28–64 px.

    Pooling comes first, at a quarter of the work for the rest: ELU is monotone and would give the
    same after it; batch norm sees the pooled values, which is another network than the reverse.
    ``wide`` has twice the channels.
    """
    widths = (1, 32, 64, 128) if variant == "wide" else (1, 16, 32, 64)
    blocks: Stages = [
        nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False),
            nn.MaxPool2d(2),
            nn.BatchNorm2d(outputs),
            nn.ELU(inplace=True),
        )
        for inputs, outputs in pairwise(widths)
    ]
    blocks[-1] = nn.Sequential(blocks[-1], nn.AdaptiveAvgPool2d(3), nn.Flatten())
    return nn.ModuleList(blocks)


class ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut, with ELU as in the small network, then a max-pool."""

    def __init__(self, inputs: int, outputs: int, *, pool: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential(
            nn.Conv2d(inputs, outputs, kernel_size=1, bias=False), nn.BatchNorm2d(outputs)
        )
        self.pool = nn.MaxPool2d(2) if pool else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H, W), or half of both with the pool."""
        inner = F.elu(self.bn1(self.conv1(x)), inplace=True)
        summed = self.bn2(self.conv2(inner)) + self.shortcut(x)
        result: Tensor = self.pool(F.elu(summed, inplace=True))
        return result


def _tiny_resnet(_variant: str) -> nn.ModuleList:
    """The small network's stem and two residual blocks; sized for 28–64 px."""
    stem = nn.Sequential(
        nn.Conv2d(1, 16, kernel_size=3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(16),
        nn.ELU(inplace=True),
    )
    last = nn.Sequential(ResidualBlock(32, 64, pool=False), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    return nn.ModuleList([stem, ResidualBlock(16, 32, pool=True), last])


FAMILIES: dict[str, Family] = {
    "small_cnn": Family(_small_cnn, list, pool_at=1),
    "tiny_resnet": Family(_tiny_resnet, list, pool_at=1),
    "resnet": Family(_torchvision, _split_resnet, pool_at=1),
    "small_resnet": Family(_small_resnet, _split_resnet, pool_at=1),
    "harmonic_resnet": Family(_harmonic_resnet, _split_resnet, pool_at=1),
    "densenet": Family(
        _torchvision,
        _split_features(
            (0, 4, 6, 8, 10),
            lambda net: [nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        ),
        pool_at=2,
    ),
    "efficientnet": Family(
        _torchvision,
        _split_features((0, 2, 3, 4, 6), lambda net: [net.avgpool, nn.Flatten()]),
        pool_at=1,
    ),
    "efficientnet_lite": Family(
        EfficientNetLite, split_efficientnet_lite, rename=plain_name, pool_at=-2
    ),
    "mobilenet_v3": Family(
        _torchvision,
        _split_features(
            (0, 2, 4, 7, 9),
            lambda net: [net.avgpool, nn.Flatten(), net.classifier[0], net.classifier[1]],
        ),
        pool_at=1,
    ),
    "convnext": Family(
        _torchvision,
        _split_features((0, 2, 4, 6), lambda net: [net.avgpool, net.classifier[0], nn.Flatten()]),
        pool_at=1,
    ),
    "vit": Family(_torchvision, _split_vit),
    "swin": Family(
        _torchvision,
        _split_features(
            (0, 2, 4, 6), lambda net: [net.norm, net.permute, net.avgpool, net.flatten]
        ),
        pool_at=3,
        channels_last=True,
    ),
}
