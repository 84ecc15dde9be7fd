"""What a network is trained on: grey pixels, or what its frozen stages made of them."""

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from busi_search.training.zoo import ImageClassifier

Indices = npt.NDArray[np.int64]
Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


class Inputs(Protocol):
    """Hands out batches for training and for prediction, and knows how to classify them."""

    def batch(
        self, indices: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Return inputs and (B, C) targets of these images for a training step, augmented."""
        ...

    def logits(self, model: ImageClassifier, inputs: Tensor) -> Tensor:
        """Map such inputs to (B, C) logits."""
        ...

    def evaluate(self, model: ImageClassifier, indices: Tensor) -> Tensor:
        """Return the (B, C) logits of these images as they are, in evaluation mode."""
        ...


class PixelInputs:
    """Grey pixels, augmented anew whenever they are used."""

    def __init__(self, images: Tensor, augmentation: Augmentation) -> None:
        """Take (N, 1, S, S) uint8 pixels and a function of pixels, targets and a generator."""
        self._images = images
        self._augmentation = augmentation

    def batch(
        self, indices: Tensor, targets: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Inputs`."""
        return self._augmentation(self._images[indices].to(torch.float32), targets, generator)

    def logits(self, model: ImageClassifier, inputs: Tensor) -> Tensor:
        """See :class:`Inputs`."""
        result: Tensor = model(inputs)
        return result

    def evaluate(self, model: ImageClassifier, indices: Tensor) -> Tensor:
        """See :class:`Inputs`."""
        result: Tensor = model(self._images[indices].to(torch.float32))
        return result


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
    ) -> None:
        """Take the output of the first ``depth`` stages.

        Args:
            features: (num_views + K, N, …); first the augmented views, then the K plain ones whose
                predictions are averaged (the image, and with test-time flips its mirror image).
            depth: number of frozen stages.
            num_views: augmented views.
            mix: of features, targets and a generator: Mixup, one stage later than on pixels.
            device: where batches go; on a GPU the features move there once.
        """
        self._features = features
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

    def logits(self, model: ImageClassifier, inputs: Tensor) -> Tensor:
        """See :class:`Inputs`."""
        result: Tensor = model.head(model.features(inputs, start=self._depth))
        return result

    def evaluate(self, model: ImageClassifier, indices: Tensor) -> Tensor:
        """See :class:`Inputs`."""
        rows = []
        for plain in range(self._num_views, len(self._features)):
            views = torch.full((len(indices),), plain)
            logits = self.logits(model, self._take(views, indices))
            rows.append(torch.log_softmax(logits, dim=1))
        return torch.logsumexp(torch.stack(rows), dim=0)
