"""The training: steps, learning rate, batches, epochs and the loss that is minimised."""

from typing import Literal

from pydantic import Field

from busi_search.spec.strict import Strict


class OptimisationFields(Strict):
    """Hyperparameters of the optimizer, the learning rate and the loss."""

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
