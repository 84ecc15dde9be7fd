"""From the name of an architecture to a network that takes grey pixels and gives logits."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from busi_search.architectures import ARCHITECTURES, is_timm
from busi_search.errors import InputError
from busi_search.training.backbones import FAMILIES
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


def average_views(logits: Tensor) -> Tensor:
    """Map the (V, N, C) logits of V views to (N, C), whose softmax is the mean of theirs."""
    return torch.logsumexp(torch.log_softmax(logits, dim=2), dim=0)


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
        min_size_pixels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        test_time_flip: bool = False,
        test_time_shift: int = 0,
    ) -> None:
        super().__init__()
        self.test_time_flip = test_time_flip
        self.test_time_shift = test_time_shift
        self.mask_head: nn.Module | None = None
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.channels = channels
        self.min_size_pixels = min_size_pixels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, S, S) grey levels in [0, 255] to (N, C) logits.

        Evaluation averages the probabilities of the :meth:`test_views`.
        """
        if self.training or self.num_test_views == 1:
            return self.classify(pixels)
        logits = self.classify(torch.cat(self.test_views(pixels)))
        return average_views(logits.view(self.num_test_views, -1, logits.shape[-1]))

    @property
    def num_test_views(self) -> int:
        """V: from how many views of an image it is predicted."""
        return (9 if self.test_time_shift else 1) * (2 if self.test_time_flip else 1)

    def test_views(self, pixels: Tensor) -> list[Tensor]:
        """Return V times (N, 1, S, S): the images, moved by some pixels, and all mirrored.

        With ``test_time_shift`` they are moved by as many pixels in each of eight directions; what
        comes in at the border is reflected.
        """
        views, shift, size = [pixels], self.test_time_shift, pixels.shape[-1]
        if shift > 0:
            padded = F.pad(pixels, (shift, shift, shift, shift), mode="reflect")
            steps = (0, shift, 2 * shift)
            corners = [(y, x) for y in steps for x in steps if (y, x) != (shift, shift)]
            views += [padded[..., y : y + size, x : x + size] for y, x in corners]
        if self.test_time_flip:
            views += [view.flip(-1) for view in views]
        return views

    def classify(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, S, S) grey levels in [0, 255] to the (N, C) logits of one view."""
        logits: Tensor = self.head(self.features(self.normalise(pixels)))
        return logits

    def add_mask_head(self, size_pixels: int) -> None:
        """Add an auxiliary output: where the lesion is, from the stage before the last.

        It is trained along and dropped before the model is used.

        Raises:
            InputError: that stage gives no image (a transformer's tokens).
        """
        self.eval()
        device = self.mean.device
        with torch.no_grad():
            x = self.normalise(torch.zeros(1, 1, size_pixels, size_pixels, device=device))
            x = self.features(x, stop=-1)
        if x.ndim != 4 or x.shape[-1] > x.shape[1]:
            raise InputError("mask_weight needs a convolutional architecture; set it to 0.")
        self.mask_head = nn.Conv2d(x.shape[1], 1, kernel_size=1).to(device)

    def classify_and_segment(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, 1, S, S) grey levels to (N, C) logits and (N, 1, H, W) logits of the lesion."""
        assert self.mask_head is not None, "add_mask_head comes first"
        x = self.features(self.normalise(pixels), stop=-1)
        mask: Tensor = self.mask_head(x)
        logits: Tensor = self.head(self.stages[-1](x))
        return logits, mask

    def normalise(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, S, S) grey levels in [0, 255] to what the first stage expects."""
        x = pixels / 255.0
        if x.shape[-1] < self.min_size_pixels:
            size = (self.min_size_pixels, self.min_size_pixels)
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        if self.channels > 1:
            x = x.expand(-1, self.channels, -1, -1)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def features(self, x: Tensor, *, start: int = 0, stop: int | None = None) -> Tensor:
        """Run the stages from ``start`` to before ``stop``; the last gives (N, num_features)."""
        for stage in list(self.stages)[start:stop]:
            x = stage(x)
        return x


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

    Raises:
        InputError: no such architecture, or it does not take images of that size.
    """
    backbone = _build_backbone(architecture, image_size_pixels)
    mean, std = backbone.normalisation
    if normalisation != "pretrained":
        mean, std = NORMALISATIONS[normalisation]
    if backbone.channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    model = ImageClassifier(
        backbone.stages,
        _make_head(head, backbone.num_features, num_classes, width=head_width, dropout=dropout),
        channels=backbone.channels,
        min_size_pixels=backbone.min_size_pixels,
        mean=mean,
        std=std,
        test_time_flip=test_time_flip,
        test_time_shift=test_time_shift,
    )
    # Twice as fast on a CPU for small networks, and what tensor cores want on a GPU.
    return model.to(memory_format=torch.channels_last)
