"""Freezing the first stages of a network, batch-norm statistics included."""

from dataclasses import dataclass
from typing import Any

from busi_search.errors import InputError
from busi_search.training.classifier import ImageClassifier


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


@dataclass(frozen=True)
class StageRates:
    """How the learning rates of the stages lie to that of the head.

    Attributes:
        backbone_ratio: rate of the last stage, as a multiple of the head's.
        layer_decay: factor from each stage to the one before it.
    """

    backbone_ratio: float = 1.0
    layer_decay: float = 1.0

    def multiple(self, stage: int, num_stages: int) -> float:
        """Return a stage's rate as a multiple of the head's; ``stage`` counts from 0."""
        return self.backbone_ratio * self.layer_decay ** (num_stages - 1 - stage)


def parameter_groups(
    model: ImageClassifier,
    *,
    learning_rate: float,
    weight_decay: float,
    rates: StageRates | None = None,
) -> list[dict[str, Any]]:
    """Return the trainable parameters for an optimizer; only matrices and kernels decay.

    Biases and normalisation scales are not decayed, as is usual since Goyal et al. 2017.

    Args:
        model: the network.
        learning_rate: of the head.
        weight_decay: of matrices and kernels.
        rates: of the stages; None: that of the head. Groups of the head come first.
    """
    parts = [(1.0, list(model.parameters()))]
    if rates is not None and rates != StageRates():
        stages = [list(stage.parameters()) for stage in model.stages]
        in_stages = {id(parameter) for stage in stages for parameter in stage}
        others = [p for p in model.parameters() if id(p) not in in_stages]
        multiples = [rates.multiple(stage, len(stages)) for stage in range(len(stages))]
        parts = [(1.0, others), *zip(multiples, stages, strict=True)]
    groups: list[dict[str, Any]] = []
    for multiple, parameters in parts:
        trainable = [p for p in parameters if p.requires_grad]
        decayed = [p for p in trainable if p.ndim > 1]
        rest = [p for p in trainable if p.ndim <= 1]
        for some, decay in ((decayed, weight_decay), (rest, 0.0)):
            if some:
                group = {"params": some, "weight_decay": decay, "lr": learning_rate * multiple}
                groups.append(group)
    return groups
