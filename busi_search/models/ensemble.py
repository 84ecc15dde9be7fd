"""What is registered: the models of all folds as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from busi_search.training.classifier import ImageClassifier, average_views


class FoldEnsemble(nn.Module):
    """The models of all folds, averaged and calibrated: grey pixels in, probabilities out.

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
        brightest = pixels.amax(dim=(1, 2, 3), keepdim=True)
        pixels = pixels * (1 + 254 * (brightest <= 1).to(pixels.dtype))
        rows = [torch.softmax(logits, dim=1) for logits in self._logits(pixels)]
        average = torch.stack(rows).mean(dim=0)
        return torch.softmax(average.clamp_min(1e-20).log() / self.temperature, dim=1)

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
