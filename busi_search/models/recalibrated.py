"""A registered model whose probability of the positive class was adapted to a hospital."""

import torch
from torch import Tensor, nn

LEAST_PROBABILITY = 1e-6


class RecalibratedModel(nn.Module):
    """A model, and a line on the logit of one class's probability: pixels in, probabilities out."""

    def __init__(self, model: nn.Module, *, positive: int, intercept: float, slope: float) -> None:
        """Take an exported program.

        Args:
            model: (N, 1, S, S) float32 to (N, C) probabilities.
            positive: index of the class.
            intercept: added to the logit of its probability, after the slope.
            slope: multiplies that logit; intercept 0 and slope 1 leave the answers as they are,
                to the last bit.
        """
        super().__init__()
        self.model = model
        self.positive, self.intercept, self.slope = positive, intercept, slope

    def train(self, mode: bool = True) -> "RecalibratedModel":
        """Do nothing: an exported program is in evaluation mode for good."""
        return self

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, S, S) float32 grey levels in [0, 255] to (N, C) probabilities.

        The other classes share what the positive one leaves, as before.
        """
        rows: Tensor = self.model(pixels)
        if self.intercept == 0 and self.slope == 1:
            return rows
        before = rows[:, self.positive].clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
        after = torch.sigmoid(self.intercept + self.slope * torch.logit(before))
        scale = ((1 - after) / (1 - before)).unsqueeze(1)
        chosen = torch.arange(rows.shape[1]) == self.positive
        result = torch.where(chosen, after.unsqueeze(1), rows * scale)
        return result / result.sum(dim=1, keepdim=True)
