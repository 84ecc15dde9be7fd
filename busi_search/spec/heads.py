"""Which hyperparameters mean something for which head: no search varies what has no effect."""

import itertools
from collections.abc import Mapping
from typing import Any

from busi_search.architectures import ARCHITECTURES, has_imagenet_weights, is_timm
from busi_search.spec.hyperparameters import Hyperparameters
from busi_search.spec.space import Choice, Range

LOGISTIC = "logistic"

# Settings of a training in steps; a head that is solved for has none.
TRAINING_ONLY = (
    "freeze_depth",
    "head_width",
    "dropout",
    "optimizer",
    "learning_rate",
    "weight_decay",
    "scheduler",
    "warmup_epochs",
    "min_learning_rate",
    "plateau_factor",
    "plateau_patience",
    "batch_size",
    "epochs",
    "early_stopping_patience",
    "focal_gamma",
    "weight_averaging",
    "precise_batch_norm",
)
AUGMENTATION = (
    "augmentation_strength",
    "flip_horizontal",
    "flip_vertical",
    "rotation_degrees",
    "shift",
    "zoom",
    "contrast",
    "brightness",
    "autocontrast",
    "gain_slope",
    "speckle",
    "erasing",
)
# What a head that is solved for can do only in one way.
_DECIDED = (
    "architecture",
    "weights",
    "pooling",
    "mask_weight",
    "mixup_alpha",
    "label_smoothing",
    "loss",
    "balanced_sampling",
)

Space = Mapping[str, Range | Choice]


def check_heads(space: Space, fixed: Hyperparameters) -> None:
    """Make sure that a search varies only what has an effect under the heads it tries.

    Args:
        space: what is searched.
        fixed: the configuration of what is not.

    Raises:
        ValueError: one sentence: what has no effect, or contradicts the head, and what to write.
    """
    heads = _values(space, fixed, "head")
    if "l2_strength" in space and not _only_under_logistic(space, heads):
        raise ValueError(
            'space.l2_strength has an effect with head = "logistic" only; add '
            'only_if = { head = ["logistic"] }'
        )
    if LOGISTIC not in heads:
        return
    others = [head for head in heads if head != LOGISTIC]
    idle = list(TRAINING_ONLY)
    if _values(space, fixed, "augmentation_views") == [0]:
        idle += AUGMENTATION
    for name in idle:
        if name in space and _reaches(space[name]):
            what = f"add only_if = {{ head = {others} }}" if others else "leave it out"
            views = " and augmentation_views = 0" if name in AUGMENTATION else ""
            raise ValueError(
                f'space.{name} has no effect with head = "logistic"{views}; '
                f"{what.replace(chr(39), chr(34))}"
            )
    values = [_values(space, fixed, name) for name in _DECIDED]
    for combination in itertools.product(*values):
        decided = dict(zip(_DECIDED, combination, strict=True))
        chosen = fixed.model_copy(update={"head": LOGISTIC} | decided)
        if (sentence := refusal(chosen)) is not None:
            raise ValueError(sentence)


def refusal(chosen: Hyperparameters) -> str | None:
    """Return what a configuration with the head ``logistic`` cannot do, or None."""
    if chosen.head != LOGISTIC:
        return None
    no_imagenet = chosen.weights == "imagenet" and not has_imagenet_weights(chosen.architecture)
    whole_labels = chosen.mixup_alpha == 0 == chosen.label_smoothing
    wrong = {
        f"learns from frozen features, and {chosen.architecture} would have random ones; set "
        'weights to "phantom" or a file, or take an architecture with ImageNet weights': (
            chosen.weights == "none" or no_imagenet
        ),
        'learns no pooling; take avg, max, gem or avgmax instead of "attention"': (
            chosen.pooling == "attention"
        ),
        "has no second task; set mask_weight = 0": chosen.mask_weight > 0,
        "is solved for cross entropy with whole labels; set mixup_alpha = 0, label_smoothing = 0 "
        'and loss = "cross_entropy"': not (whole_labels and chosen.loss == "cross_entropy"),
        'draws no images; take class_weighting = "balanced" instead of balanced_sampling': (
            chosen.balanced_sampling
        ),
    }
    sentence = next((sentence for sentence, holds in wrong.items() if holds), None)
    return None if sentence is None else f'head = "logistic" {sentence}'


def settled(chosen: Hyperparameters) -> Hyperparameters:
    """Return a configuration with what the head ``logistic`` implies: one epoch, all frozen."""
    if chosen.head != LOGISTIC:
        return chosen
    known = ARCHITECTURES.get(chosen.architecture)
    depth = 20 if known is None else known.num_stages
    return chosen.model_copy(update={"epochs": 1, "freeze_depth": depth})


def _values(space: Space, fixed: Hyperparameters, name: str) -> list[Any]:
    """Values that a hyperparameter may have together with the head ``logistic``."""
    if name not in space:
        return [getattr(fixed, name)]
    if not _reaches(space[name]):
        return [getattr(fixed, name)]
    values: list[Any] = list(space[name].ends)
    # Under a condition of another kind it keeps its fixed value at times.
    return [*values, getattr(fixed, name)] if _others(space[name]) else values


def _reaches(searched: Range | Choice) -> bool:
    """Whether a hyperparameter is sampled with the head ``logistic``."""
    return LOGISTIC in searched.only_if.get("head", [LOGISTIC])


def _others(searched: Range | Choice) -> bool:
    return any(key != "head" for key in searched.only_if)


def _only_under_logistic(space: Space, heads: list[Any]) -> bool:
    condition = space["l2_strength"].only_if.get("head", heads)
    return all(head == LOGISTIC for head in condition)


def check_maps(space: Space, fixed: Hyperparameters) -> None:
    """Make sure that only architectures cut at their pooling get another, or several stages.

    Raises:
        ValueError: one sentence: which one has none, and what to write.
    """
    plain = {"pooling": "avg", "feature_layers": 1}
    architectures = space["architecture"].ends if "architecture" in space else [fixed.architecture]
    for architecture in architectures:
        known = ARCHITECTURES.get(str(architecture))
        if not is_timm(str(architecture)) and (known is None or known.maps):
            continue
        for name, usual in plain.items():
            values = [getattr(fixed, name)]
            if name in space:
                reached = space[name].only_if.get("architecture", [architecture])
                values += space[name].ends if architecture in reached else []
                values = values[1:] if "architecture" not in space[name].only_if else values
            if any(value != usual for value in values):
                raise ValueError(
                    f"{architecture} has one pooling here and takes {name} = "
                    f"{str(usual) if name == 'feature_layers' else chr(34) + str(usual) + chr(34)} "
                    "only; add only_if = { architecture = [...] } with the convolutional ones"
                )
