"""Loss functions over soft targets: cross entropy and focal, weighted and smoothed."""

from collections.abc import Callable

import torch
from torch import Tensor

LossFunction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def make_loss(
    kind: str,
    *,
    label_smoothing: float = 0.0,
    class_weights: Tensor | None = None,
    focal_gamma: float = 2.0,
) -> LossFunction:
    """Return a function of logits (N, C) and target probabilities (N, C).

    It gives (N,) weighted losses and (N,) weights; the loss of a batch is the sum of the ones over
    the sum of the others, whatever the pieces in which it is computed.

    Args:
        kind: ``cross_entropy`` or ``focal`` (Lin et al. 2017, with soft targets each class term
            is weighted by (1 − p)^gamma).
        label_smoothing: share of the target spread evenly over the classes, in [0, 1).
        class_weights: (C,) weights; the mean is over the weights, as in PyTorch's cross entropy.
        focal_gamma: focusing parameter of the focal loss.
    """

    def loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        log_probabilities = torch.log_softmax(logits, dim=1)
        num_classes = logits.shape[1]
        weights = targets if class_weights is None else targets * class_weights
        smoothed = targets * (1 - label_smoothing) + label_smoothing / num_classes
        if class_weights is not None:
            smoothed = smoothed * class_weights
        if kind == "focal":
            smoothed = smoothed * (1 - log_probabilities.exp()) ** focal_gamma
        return -(smoothed * log_probabilities).sum(dim=1), weights.sum(dim=1)

    return loss


def balanced_class_weights(labels: Tensor, num_classes: int) -> Tensor:
    """Return (C,) weights N / (C × count), as scikit-learn's ``balanced``; 0 for absent classes."""
    counts = torch.bincount(labels, minlength=num_classes).to(torch.float32)
    return torch.where(counts > 0, len(labels) / (num_classes * counts.clamp_min(1)), 0.0)
