"""Freezing the first stages of a network, batch-norm statistics included."""

from collections.abc import Iterator

from torch import nn

from busi_search.errors import InputError
from busi_search.training.zoo import ImageClassifier


def freeze_backbone(model: ImageClassifier, depth: int) -> None:
    """Freeze the first ``depth`` stages: no gradients, batch norm and dropout as in evaluation.

    Args:
        model: the network, changed in place.
        depth: 0 (all trainable) to the number of stages (only the head is trained).

    Raises:
        InputError: ``depth`` is larger than the number of stages.
    """
    if depth > len(model.stages):
        raise InputError(
            f"freeze_depth = {depth} is more than the {len(model.stages)} stages of this "
            "architecture; lower it."
        )
    for index, stage in enumerate(model.stages):
        stage.requires_grad_(index >= depth)
    set_training_mode(model, depth)


def set_training_mode(model: ImageClassifier, depth: int) -> None:
    """Put the model in training mode but keep its first ``depth`` stages in evaluation mode."""
    model.train()
    for stage in model.stages[:depth]:
        stage.eval()


def parameter_groups(
    model: nn.Module, *, weight_decay: float
) -> list[dict[str, list[nn.Parameter] | float]]:
    """Return the trainable parameters for an optimizer; only matrices and kernels decay.

    Biases and normalisation scales are not decayed, as is usual since Goyal et al. 2017.
    """
    decayed = [p for p in _trainable(model) if p.ndim > 1]
    others = [p for p in _trainable(model) if p.ndim <= 1]
    groups: list[dict[str, list[nn.Parameter] | float]] = []
    for parameters, decay in ((decayed, weight_decay), (others, 0.0)):
        if parameters:
            groups.append({"params": parameters, "weight_decay": decay})
    return groups


def _trainable(model: nn.Module) -> Iterator[nn.Parameter]:
    return (parameter for parameter in model.parameters() if parameter.requires_grad)
