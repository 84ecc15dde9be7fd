"""Which weights are kept: an average of several, or those of the best epoch."""

import copy
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from busi_search.training.freezing import set_training_mode
from busi_search.training.zoo import ImageClassifier

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class MovingAverage:
    """An exponential moving average of a network's weights, and the weights it is of."""

    def __init__(self, model: ImageClassifier, decay: float) -> None:
        """Take the network and the decay of a step; 0: there is no average."""
        self._model = model
        self._average: AveragedModel | None = None
        self._own: dict[str, Any] = {}
        if decay > 0:
            mean: Any = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            self._average = AveragedModel(model, multi_avg_fn=mean, use_buffers=True)

    def update(self) -> None:
        """Take in the weights after a step."""
        if self._average is not None:
            self._average.update_parameters(self._model)

    def put_in(self) -> None:
        """Give the network the average; its own weights are kept."""
        if self._average is not None:
            self._own = copy.deepcopy(self._model.state_dict())
            self._model.load_state_dict(self._average.module.state_dict())

    def take_out(self) -> None:
        """Give the network its own weights back."""
        if self._average is not None:
            self._model.load_state_dict(self._own)


class EpochAverage:
    """The mean of a network's weights at the ends of several epochs.

    Source: Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better
    Generalization" (SWA).
    """

    def __init__(self, model: ImageClassifier) -> None:
        """Take the network."""
        self._model = model
        self._average: AveragedModel | None = None

    def update(self) -> None:
        """Take in the weights at the end of an epoch."""
        if self._average is None:
            self._average = AveragedModel(self._model)
        self._average.update_parameters(self._model)

    def put_in(self) -> bool:
        """Give the network the mean for good; return whether there is one.

        Batch norm's statistics are those of the last epoch and must be computed again.
        """
        if self._average is None:
            return False
        self._model.load_state_dict(self._average.module.state_dict())
        return True


class BestEpoch:
    """The epoch with the lowest loss on the inner split, and the weights after it."""

    def __init__(self) -> None:
        self.epoch = 0
        self._loss = math.inf
        self._weights: dict[str, Any] | None = None

    def compare(self, epoch: int, loss: float, model: ImageClassifier) -> None:
        """Keep the weights if no epoch before had so low a loss."""
        if loss < self._loss:
            self.epoch, self._loss = epoch, loss
            self._weights = copy.deepcopy(model.state_dict())

    def restore(self, model: ImageClassifier) -> None:
        """Go back to the weights of the best epoch, if the loss was ever a number."""
        if self._weights is not None:
            model.load_state_dict(self._weights)


@torch.no_grad()
def estimate_batch_norm(
    model: ImageClassifier,
    batches: Iterable[Tensor],
    run: Callable[[Tensor], object],
    freeze_depth: int,
) -> None:
    """Replace batch norm's running statistics, of what is not frozen, by those of the images.

    The variance is a mean over batches: those of one class, as files are sorted, would leave out
    how far the classes lie apart.
    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm" (PreciseBN).

    Args:
        model: the network; it is left in evaluation mode.
        batches: indices of the images, shuffled, some at a time.
        run: sends the images of a batch through the network.
        freeze_depth: number of frozen stages, whose statistics stay.
    """
    set_training_mode(model, freeze_depth)
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.training]
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for the mean over all batches
        norm.train()
    for batch in batches if norms else ():
        run(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
