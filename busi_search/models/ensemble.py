"""What is registered: the models of all folds as one."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from busi_search.training.zoo import ImageClassifier


class FoldEnsemble(nn.Module):
    """The models of all folds, averaged and calibrated: grey pixels in, probabilities out."""

    def __init__(self, models: Sequence[ImageClassifier], temperature: float = 1.0) -> None:
        super().__init__()
        self.fold_models = tuple(models)
        self.models = nn.ModuleList(models)
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, K, S, S) float32 grey levels in [0, 255] to (N, C) probabilities."""
        rows = [torch.softmax(model(pixels), dim=1) for model in self.models]
        average = torch.stack(rows).mean(dim=0)
        return torch.softmax(average.clamp_min(1e-20).log() / self.temperature, dim=1)
