"""Loss functions over soft targets: cross entropy and focal, weighted and smoothed."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class LossFunction:
    """A loss over soft targets, image by image.

    The loss of a batch is the sum of the images' losses over the sum of their weights, whatever the
    pieces in which it is computed.

    Attributes:
        kind: ``cross_entropy`` or ``focal`` (Lin et al. 2017, with soft targets each class term
            is weighted by (1 − p)^gamma).
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
        class_weights: (C,) weights, or None.
        focal_gamma: focusing parameter of the focal loss.
    """

    kind: str
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    focal_gamma: float = 2.0

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return (N,) weighted losses of logits (N, C) and target probabilities (N, C)."""
        if self.kind == "cross_entropy":
            return F.cross_entropy(
                logits,
                targets,
                weight=self.class_weights,
                label_smoothing=self.label_smoothing,
                reduction="none",
            )
        log_probabilities = torch.log_softmax(logits, dim=1)
        smoothing = self.label_smoothing
        smoothed = targets * (1 - smoothing) + smoothing / logits.shape[1]
        if self.class_weights is not None:
            smoothed = smoothed * self.class_weights
        smoothed = smoothed * (1 - log_probabilities.exp()) ** self.focal_gamma
        return -(smoothed * log_probabilities).sum(dim=1)

    def total_weight(self, targets: Tensor) -> Tensor:
        """Return the sum of the weights of a batch: as in PyTorch, those of the true classes."""
        if self.class_weights is None:
            return targets.sum()
        return (targets * self.class_weights).sum()


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return (C,) weights N / (C × count), as scikit-learn's ``balanced``; 0 for absent classes."""
    counts = torch.bincount(labels, minlength=num_classes).to(torch.float32)
    return torch.where(counts > 0, len(labels) / (num_classes * counts.clamp_min(1)), 0.0)
