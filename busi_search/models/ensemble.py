"""What is registered: the models of all folds as one."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from busi_search.training.classifier import ImageClassifier, average_views
from busi_search.training.lesion_finder import LesionCrop
from busi_search.training.metrics import softmax

# Keeps a logarithm finite.
_SMALLEST = 1e-20


def average_models(probabilities: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Return (N, C) probabilities, the geometric mean of those of M models.

    Args:
        probabilities: (M, N, C) of each model, not yet calibrated; see :class:`FoldEnsemble`.
    """
    logs = np.log(np.maximum(probabilities.astype(np.float64), _SMALLEST))
    return softmax(logs.mean(axis=0))


def as_grey_levels(pixels: Tensor) -> Tensor:
    """Return (N, K, S, S) pixels as grey levels in [0, 255]; shares of white are multiplied."""
    brightest = pixels.amax(dim=(1, 2, 3), keepdim=True)
    return pixels * (1 + 254 * (brightest <= 1).to(pixels.dtype))


class FoldEnsemble(nn.Module):
    """The models of all folds, averaged and calibrated: grey pixels in, probabilities out.

    The logarithms of their probabilities are averaged (a geometric mean). A mean of the
    probabilities themselves is less certain than its members wherever they disagree, although it
    is more often right: its calibration slope is farther above 1.

    Fold models that share their stages, as frozen ones do, run them once.
    """

    def __init__(self, models: Sequence[ImageClassifier], temperature: float = 1.0) -> None:
        super().__init__()
        self.fold_models = tuple(models)
        self.shares_stages = len(models) > 1 and all(
            model.shares_stages(models[0]) for model in models
        )
        self.models = nn.ModuleList(models[:1] if self.shares_stages else models)
        self.heads = nn.ModuleList(m.head for m in models[1:] if self.shares_stages)
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, K, S, S) float32 grey levels in [0, 255] to (N, C) probabilities.

        An image without a value above 1 holds shares of white, and is multiplied by 255: as grey
        levels it would be black, and any answer about it would mean nothing. Other images are left
        as they are, to the last bit.
        """
        pixels = as_grey_levels(pixels)
        rows = [torch.log_softmax(logits, dim=1) for logits in self._logits(pixels)]
        return torch.softmax(torch.stack(rows).mean(dim=0) / self.temperature, dim=1)

    def _logits(self, pixels: Tensor) -> list[Tensor]:
        if not self.shares_stages:
            return [model(pixels) for model in self.models]
        first = self.fold_models[0]
        views = [
            first.regions_side_by_side(first.features(first.normalise(view)))
            for view in first.test_views(pixels)
        ]
        return [
            average_views(torch.stack([head(features) for features in views]))
            for head in (first.head, *self.heads)
        ]


class SelfLocatingEnsemble(nn.Module):
    """Fold models with the networks that find the lesion: whole images in, probabilities out."""

    def __init__(self, crop: LesionCrop, ensemble: FoldEnsemble) -> None:
        super().__init__()
        self.crop, self.ensemble = crop, ensemble

    @property
    def fold_models(self) -> tuple[ImageClassifier, ...]:
        """The networks that see the regions."""
        return self.ensemble.fold_models

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, 2 S, 2 S) float32 grey levels in [0, 255] to (N, C) probabilities."""
        probabilities: Tensor = self.ensemble(self.crop(as_grey_levels(pixels)))
        return probabilities
