"""EfficientNet-Lite: the EfficientNet of phones, without squeeze-and-excitation and with ReLU6.

Source: Tan and Le, EfficientNet: rethinking model scaling for convolutional neural networks, ICML
2019, and the "lite" variants that Google published in 2020. The tensors have the names of the
published PyTorch checkpoints, without their leading underscores.
"""

import math
import re
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Scaling:
    """How a variant differs from Lite0: factors of the channels and of the blocks in a row."""

    width: float
    depth: float


SCALINGS = {
    "efficientnet_lite0": Scaling(1.0, 1.0),
    "efficientnet_lite1": Scaling(1.0, 1.1),
    "efficientnet_lite2": Scaling(1.1, 1.2),
}

# Of Lite0, first to last: expansion, kernel size, stride, channels, blocks in a row.
_GROUPS = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# Groups of blocks that make one stage; each of the later stages halves the resolution.
_STAGES = (slice(0, 1), slice(1, 2), slice(2, 3), slice(3, 5), slice(5, 7))
_STEM_CHANNELS, _NUM_FEATURES = 32, 1280
_BATCH_NORM_EPS = 1e-3


class SameConv2d(nn.Conv2d):
    """A convolution with TensorFlow's padding: ⌈side / stride⌉ pixels out, the rest at the end.

    With a stride of 2 an even side gets its odd pixel of padding on the right and at the bottom;
    PyTorch's symmetric padding would move every feature map by half a pixel.
    """

    def __init__(
        self, inputs: int, outputs: int, size: int, *, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__(inputs, outputs, size, stride, 0, 1, groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        top, bottom = self._pads(x.shape[-2])
        left, right = self._pads(x.shape[-1])
        padding: tuple[int, int] = (top, left)
        if (top, left) != (bottom, right):
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0)
        return F.conv2d(x, self.weight, None, self.stride, padding, self.dilation, self.groups)

    def _pads(self, side: int) -> tuple[int, int]:
        size, stride = self.kernel_size[0], self.stride[0]
        total = max((math.ceil(side / stride) - 1) * stride + size - side, 0)
        return total // 2, total - total // 2


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    # The published momentum (0.01) needs thousands of steps until the running statistics are true.
    return nn.BatchNorm2d(channels, eps=_BATCH_NORM_EPS, momentum=0.1)


class InvertedBottleneck(nn.Module):
    """Expansion, depthwise convolution and projection, beside a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, *, expansion: int, size: int, stride: int):
        super().__init__()
        width = inputs * expansion
        self.expands = expansion > 1
        if self.expands:
            self.expand_conv = SameConv2d(inputs, width, 1)
            self.bn0 = _batch_norm(width)
        self.depthwise_conv = SameConv2d(width, width, size, stride=stride, groups=width)
        self.bn1 = _batch_norm(width)
        self.project_conv = SameConv2d(width, outputs, 1)
        self.bn2 = _batch_norm(outputs)
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, ⌈H / stride⌉, ⌈W / stride⌉)."""
        inner = F.relu6(self.bn0(self.expand_conv(x)), inplace=True) if self.expands else x
        inner = F.relu6(self.bn1(self.depthwise_conv(inner)), inplace=True)
        result: Tensor = self.bn2(self.project_conv(inner))
        return result + x if self.has_shortcut else result


class EfficientNetLite(nn.Module):
    """The whole network, with ImageNet's classifier; see :func:`split_efficientnet_lite`."""

    def __init__(self, variant: str, num_classes: int = 1000) -> None:
        super().__init__()
        self.conv_stem = SameConv2d(3, _STEM_CHANNELS, 3, stride=2)
        self.bn0 = _batch_norm(_STEM_CHANNELS)
        scaling, inputs = SCALINGS[variant], _STEM_CHANNELS
        blocks: list[nn.Module] = []
        self.stage_ends: list[int] = []
        ends = []
        for index, (expansion, size, stride, channels, count) in enumerate(_GROUPS):
            outer = index in (0, len(_GROUPS) - 1)  # the first and the last are never repeated
            outputs = _scaled_channels(channels, scaling.width)
            for row in range(count if outer else math.ceil(count * scaling.depth)):
                blocks.append(
                    InvertedBottleneck(
                        inputs,
                        outputs,
                        expansion=expansion,
                        size=size,
                        stride=stride if row == 0 else 1,
                    )
                )
                inputs = outputs
            ends.append(len(blocks))
        self.stage_ends = [ends[groups][-1] for groups in _STAGES]
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = SameConv2d(inputs, _NUM_FEATURES, 1)
        self.bn1 = _batch_norm(_NUM_FEATURES)
        self.fc = nn.Linear(_NUM_FEATURES, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] ** 2 * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, S, S) to the (N, num_classes) logits."""
        logits: Tensor = self.fc(nn.Sequential(*split_efficientnet_lite(self))(x))
        return logits


def split_efficientnet_lite(net: EfficientNetLite) -> list[nn.Module]:
    """Return five stages that map (N, 3, S, S) to (N, 1280); the classifier is left out."""
    blocks, starts = list(net.blocks), [0, *net.stage_ends[:-1]]
    stages = [
        nn.Sequential(*blocks[start:stop])
        for start, stop in zip(starts, net.stage_ends, strict=True)
    ]
    stages[0] = nn.Sequential(net.conv_stem, net.bn0, nn.ReLU6(inplace=True), *stages[0])
    last = (net.conv_head, net.bn1, nn.ReLU6(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    stages[-1] = nn.Sequential(*stages[-1], *last)
    return list(stages)


def plain_name(key: str) -> str:
    """Turn a published checkpoint's name of a tensor into that of :class:`EfficientNetLite`."""
    return re.sub(r"(^|\.)_", r"\1", key)


def _scaled_channels(channels: int, width: float) -> int:
    """Return the nearest multiple of 8, never more than a tenth below ``channels · width``."""
    scaled = channels * width
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * scaled else rounded
