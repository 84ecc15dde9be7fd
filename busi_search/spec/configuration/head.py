"""The head: what it sees of the stages of a network, and its layers."""

from typing import Literal

from pydantic import Field

from busi_search.spec.strict import Strict


class HeadFields(Strict):
    """Hyperparameters of pooling and head."""

    pooling: Literal["avg", "max", "gem", "avgmax", "attention"] = "avg"
    """How the maps of the last stage become features.

    `avg` is the pooling that the architecture has: the mean over all places, or over a grid of 3×3
    cells for `small_cnn` and `tiny_resnet`. `max` takes the largest value instead, `gem` a
    generalised mean with power 3, and `avgmax` the mean and the largest value side by side.
    `attention` learns how much each place counts. Convolutional architectures only.

    Default: what the weights were learned with; a small lesion fills little of a mean, so that
    `avgmax` is worth searching where stages are frozen.
    Example: pooling = ["avg", "max", "avgmax"]
    """

    feature_layers: int = Field(default=1, ge=1, le=20)
    """Number of last stages whose pooled outputs the head sees side by side.

    With 1 it sees the last stage; an architecture with fewer stages gives all it has. Convolutional
    architectures only.

    Unit: stages.
    Default: what the weights were learned with; frozen ImageNet features tell more about ultrasound
    from 3 or more stages.
    Example: feature_layers = { low = 1, high = 5 }
    """

    head: Literal["linear", "mlp", "logistic"] = "linear"
    """Layers between the features and the classes.

    `linear` is dropout and one dense layer. `mlp` is dropout, a dense layer, batch norm, ReLU,
    dropout of at most 0.5 and a second dense layer. `logistic` is one dense layer whose weights are
    solved for: an L2 logistic regression on standardised features, while every stage stays frozen.
    Its features are computed once and kept, so that a trial takes seconds; it has one epoch, and
    optimizer, schedule, batches, dropout and weight averages do not touch it.

    Default: the fewest weights to learn from a few hundred images, and stages may learn too.
    Example: head = ["linear", "mlp"]
    """

    l2_strength: float = Field(default=0.1, gt=0, le=1e6)
    """Strength of the penalty of `head = "logistic"`.

    Half the sum of squared weights, of standardised features, is added to the mean loss with this
    factor; of two classes it is the weights of the one logit between them. With M training views
    scikit-learn's C is 1 / (M × `l2_strength`).

    Unit: none.
    Default: the middle of what frozen ImageNet features did best with on BUSI and BUS-BRA.
    Example: l2_strength = { low = 0.01, high = 10, log = true, only_if = { head = ["logistic"] } }
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
