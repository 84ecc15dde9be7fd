"""What a network is trained on: grey pixels, or what its frozen stages made of them."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from busi_search.training.classifier import ImageClassifier, average_views

Indices = npt.NDArray[np.int64]
Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class Inputs(Protocol):
    """Hands out batches for training and for prediction, and knows how to classify them."""

    def batch(
        self, indices: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and (B, C) targets of these images for a training step, augmented."""
        ...

    def forward(self, model: ImageClassifier, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Map such inputs to (B, C) logits and, for an auxiliary task, (B,) further losses."""
        ...

    def evaluate(self, model: ImageClassifier, indices: Tensor, *, views: bool = True) -> Tensor:
        """Return the (B, C) logits of these images as they are, in evaluation mode.

        ``views``: averaged over the model's test-time views, or else of the image alone.
        """
        ...


# The part of a GPU's free memory that images may take: the rest is for the network.
_RESIDENT_SHARE = 0.25


def place_pixels(images: npt.NDArray[np.uint8], device: str) -> Tensor:
    """Return images as a tensor: on a GPU if they take little of it, else where they are.

    What is memory-mapped stays so: a batch is read from the file when it is needed, and many more
    images than fit into memory can be trained on.

    Args:
        images: (N, S, S) uint8, or (N, K, S, S) with K regions of every image.
        device: PyTorch's name of the device that trains.

    Returns:
        (N, K, S, S) uint8, not to be written to; K = 1 where there are no regions.
    """
    with warnings.catch_warnings():
        # PyTorch has no read-only tensors; nothing here writes.
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        pixels = torch.from_numpy(images)
    if pixels.ndim == 3:
        pixels = pixels.unsqueeze(1)
    if device == "cpu" or images.nbytes > _RESIDENT_SHARE * torch.cuda.mem_get_info(device)[0]:
        return pixels
    return pixels.to(device)


def shrink_pixels(images: Tensor, side: int) -> Tensor:
    """Return (N, 1, S, S) uint8 images as (N, 1, side, side), smoothed before they are thinned out.

    Some images at a time: they may be many, and memory-mapped.
    """
    size = (side, side)
    parts = [
        F.interpolate(some.to(torch.float32), size=size, mode="bilinear", antialias=True)
        for some in torch.split(images, 64)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])


class PixelInputs:
    """Grey pixels, augmented anew whenever they are used."""

    def __init__(self, images: Tensor, augmentation: Augmentation, device: str) -> None:
        """Take (N, K, S, S) uint8 pixels, a function of pixels, targets and a generator, a device.

        The pixels need not lie on the device; batches do.
        """
        self._images = images
        self._augmentation = augmentation
        self._device = device

    def _take(self, images: Tensor, indices: Tensor) -> Tensor:
        return images[indices].to(self._device).to(torch.float32)

    def batch(
        self, indices: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Inputs`."""
        return self._augmentation(self._take(self._images, indices), targets, generator)

    def forward(self, model: ImageClassifier, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`Inputs`."""
        return model(inputs), None

    def evaluate(self, model: ImageClassifier, indices: Tensor, *, views: bool = True) -> Tensor:
        """See :class:`Inputs`."""
        pixels = self._take(self._images, indices)
        result: Tensor = model(pixels) if views else model.classify(pixels)
        return result


class MaskedInputs(PixelInputs):
    """Grey pixels with lesion masks, whose prediction is an auxiliary task."""

    def __init__(
        self,
        images: Tensor,
        masks: Tensor,
        augmentation: Augmentation,
        weight: float,
        device: str,
    ) -> None:
        """Take (N, K, S, S) uint8 pixels and masks, and the weight of the masks' loss."""
        super().__init__(images, augmentation, device)
        self._masks = masks
        self._weight = weight

    def batch(
        self, indices: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Inputs`; (B, 2·K, S, S): the pixels of every region, then the masks."""
        both = [self._take(images, indices) for images in (self._images, self._masks)]
        return self._augmentation(torch.cat(both, dim=1), targets, generator)

    def forward(self, model: ImageClassifier, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`Inputs`: binary cross entropy with the share of lesion in every cell."""
        regions = model.num_regions
        logits, mask = model.classify_and_segment(inputs[:, :regions])
        truth = inputs[:, regions:].flatten(0, 1).unsqueeze(1)
        share = F.adaptive_avg_pool2d(truth / 255, (mask.shape[-2], mask.shape[-1]))
        losses = F.binary_cross_entropy_with_logits(mask.float(), share, reduction="none")
        of_region = losses.mean(dim=(1, 2, 3)).view(-1, regions)
        return logits, self._weight * of_region.mean(dim=1)


class FeatureInputs:
    """What the frozen stages make of a fixed number of augmented views of every image."""

    def __init__(
        self,
        features: npt.NDArray[np.float16],
        *,
        depth: int,
        num_views: int,
        mix: Augmentation,
        device: str,
        shapes: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """Take the output of the first ``depth`` stages.

        Args:
            features: (num_views + V, N, …), with K regions (num_views + V, N, K, …); first the
                augmented views, then the V test-time views, whose predictions are averaged; the
                first of these is the image as it is.
            depth: number of frozen stages.
            num_views: augmented views.
            mix: of features, targets and a generator: Mixup, one stage later than on pixels.
            device: where batches go; on a GPU the features move there once.
            shapes: of the tensors that lie side by side in the features, without N; empty: there
                is one.
        """
        self._features = features
        self._shapes = tuple(shapes)
        self._resident = None if device == "cpu" else torch.from_numpy(features.copy()).to(device)
        self._depth, self._num_views, self._mix, self._device = depth, num_views, mix, device

    def _take(self, views: Tensor, indices: Tensor) -> Tensor:
        if self._resident is not None:
            found = self._resident[views.to(self._device), indices.to(self._device)]
        else:
            found = torch.from_numpy(self._features[views.numpy(), indices.numpy()])
        return found.to(torch.float32)

    def batch(
        self, indices: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Inputs`."""
        views = torch.randint(self._num_views, (len(indices),), generator=generator)
        return self._mix(self._take(views, indices), targets, generator)

    def forward(self, model: ImageClassifier, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """See :class:`Inputs`."""
        if model.num_regions > 1:
            inputs = inputs.flatten(0, 1)
        state = [inputs]
        if len(self._shapes) > 1:
            parts = torch.split(inputs, [math.prod(shape) for shape in self._shapes], dim=1)
            pairs = zip(parts, self._shapes, strict=True)
            state = [part.reshape(len(inputs), *shape) for part, shape in pairs]
        features = model.read(model.advance(state, start=self._depth))
        return model.classify_features(features), None

    def evaluate(self, model: ImageClassifier, indices: Tensor, *, views: bool = True) -> Tensor:
        """See :class:`Inputs`."""
        first = self._num_views
        rows = []
        for plain in range(first, len(self._features) if views else first + 1):
            taken = torch.full((len(indices),), plain)
            rows.append(self.forward(model, self._take(taken, indices))[0])
        return average_views(torch.stack(rows))
