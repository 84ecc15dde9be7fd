"""What predictions are made with: a second task, averaged weights, several views of an image."""

from pydantic import Field

from busi_search.spec.strict import Strict


class PredictionFields(Strict):
    """Hyperparameters of the second task, of averaged weights and of test-time views."""

    mask_weight: float = Field(default=0.0, ge=0, le=100)
    """Weight of an additional task: to predict, cell by cell, how much of the image is lesion.

    The dataset must have lesion masks (BUSI, phantoms), and the architecture must be convolutional;
    an image without a mask file counts as one without a lesion. Predictions need no masks. Masks
    teach the stages before the last one: where `freeze_depth` freezes all of these, they change
    nothing.

    Unit: none.
    Default: off; with masks a small network scored 0.006 of AUC lower on BUSI and 0.001 to 0.004
    higher on BUS-BRA, and simulated images showed no difference.
    Example: mask_weight = [0.0, 0.3, 1.0]
    """

    weight_averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay of a moving average of the weights, step by step, which then replaces them; 0 is off.

    Unit: none.
    Default: off; 0.99 made no measurable difference on BreastMNIST.
    Example: weight_averaging = [0.0, 0.99]
    """

    average_last_epochs: int = Field(default=0, ge=0, le=2000)
    """Number of last epochs whose weights are averaged into the final network.

    The weights at the end of each of these epochs count equally (stochastic weight averaging,
    Izmailov et al. 2018); batch norm's statistics are then taken anew. 0 keeps the weights of the
    last epoch. It cannot be combined with `weight_averaging` or with early stopping.

    Unit: epochs; at most `epochs`.
    Default: off. With `cosine` the last epochs hardly differ; `scheduler = "none"` or a
    `min_learning_rate` leaves them something to average.
    Example: average_last_epochs = [0, 4]
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
