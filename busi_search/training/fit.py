"""Training one model on one fold, an epoch at a time."""

import copy
import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from busi_search.training.freezing import parameter_groups, set_training_mode
from busi_search.training.gradients import accumulate_gradients
from busi_search.training.inputs import Inputs
from busi_search.training.losses import LossFunction
from busi_search.training.schedule import LearningRate, Schedule
from busi_search.training.zoo import ImageClassifier

Indices = npt.NDArray[np.int64]

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave.

    Attributes:
        epoch: number of epochs done, from 1.
        train_loss: mean loss over the epoch's batches.
        monitor_loss: loss on the inner split, where there is one.
        learning_rate: at the end of the epoch.
        stopped: early stopping ended the training here.
    """

    epoch: int
    train_loss: float
    monitor_loss: float | None
    learning_rate: float
    stopped: bool = False


def make_optimizer(
    model: ImageClassifier, name: str, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer over the trainable parameters (``adam``, ``adamw`` or ``sgd``)."""
    groups = parameter_groups(model, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr=learning_rate, fused=True)


def fit_fold(
    model: ImageClassifier,
    inputs: Inputs,
    labels: Tensor,
    *,
    train: Indices,
    monitor: Indices | None,
    optimizer: torch.optim.Optimizer,
    loss_function: LossFunction,
    schedule: Schedule,
    epochs: int,
    batch_size: int,
    freeze_depth: int,
    balanced_sampling: bool,
    seed: int,
    weight_averaging: float = 0.0,
    precise_batch_norm: bool = False,
) -> Iterator[EpochResult]:
    """Train ``model`` in place and yield after every epoch; stop iterating to stop training.

    Args:
        model: the network, on the device of the inputs.
        inputs: where batches come from.
        labels: (N,) int64, on the same device.
        train: indices of the images to learn from.
        monitor: indices of the inner split that schedules and early stopping watch, or None.
        optimizer: over the model's trainable parameters.
        loss_function: of logits (B, C) and targets (B, C).
        schedule: how the learning rate moves.
        epochs: number of passes over ``train``.
        batch_size: images per step; a last batch of one image joins the one before it.
        freeze_depth: number of frozen stages, kept in evaluation mode.
        balanced_sampling: draw images with replacement so that classes are even.
        seed: of the order of the images and of the augmentation.
        weight_averaging: decay of an exponential moving average of the weights, step by step; the
            average is what is yielded and kept. 0: the weights as they are.
        precise_batch_norm: in the end take batch norm's statistics from ``train`` as it is, in
            shuffled batches: those of training are of augmented images, what is predicted is not.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = F.one_hot(labels).to(torch.float32)
    batches_per_epoch = max(1, math.ceil((len(train) - 1) / batch_size))
    rate = LearningRate(optimizer, schedule, epochs, batches_per_epoch)
    average, best = _MovingAverage(model, weight_averaging), _BestEpoch()
    patience = schedule.early_stopping_patience
    classify = partial(inputs.forward, model)
    micro_batch = batch_size + 1
    for epoch in range(1, epochs + 1):
        set_training_mode(model, freeze_depth)
        order = _epoch_order(train, labels, balanced_sampling, generator)
        losses, sizes = [], []
        for batch in _batches(order, batch_size):
            examples, targets = inputs.batch(batch, truth[batch], generator)
            rate.before_step()
            loss, micro_batch = accumulate_gradients(
                classify, optimizer, loss_function, examples, targets, micro_batch
            )
            optimizer.step()
            rate.after_step()
            average.update()
            losses.append(loss)
            sizes.append(len(batch))
        pairs = zip(torch.stack(losses).tolist(), sizes, strict=True)
        train_loss = sum(loss * size for loss, size in pairs) / len(order)
        average.put_in()
        monitor_loss = None
        if monitor is not None:
            monitor_loss = _mean_loss(model, inputs, labels, monitor)
            rate.after_epoch(monitor_loss)
            best.compare(epoch, monitor_loss, model)
        stopped = patience > 0 and epoch - best.epoch >= patience
        last = stopped or epoch == epochs
        if last and patience > 0:
            best.restore(model)
        if last and precise_batch_norm:
            shuffled = _epoch_order(train, labels, False, generator)
            _estimate_batch_norm(model, inputs, shuffled, batch_size, freeze_depth)
        yield EpochResult(epoch, train_loss, monitor_loss, rate.now, stopped=stopped)
        if last:
            return
        average.take_out()


class _MovingAverage:
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


class _BestEpoch:
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
def _estimate_batch_norm(
    model: ImageClassifier, inputs: Inputs, order: Tensor, batch_size: int, freeze_depth: int
) -> None:
    """Replace batch norm's running statistics, of what is not frozen, by those of the images.

    ``order``: their indices, shuffled. The variance is a mean over batches: those of one class, as
    files are sorted, would leave out how far the classes lie apart.
    Source: Wu and Johnson 2021, "Rethinking 'Batch' in BatchNorm" (PreciseBN).
    """
    set_training_mode(model, freeze_depth)
    norms = [m for m in model.modules() if isinstance(m, BATCH_NORMS) and m.training]
    model.eval()
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # PyTorch's sign for the mean over all batches
        norm.train()
    for batch in _batches(order, batch_size) if norms else ():
        inputs.evaluate(model, batch, views=False)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()


def _epoch_order(
    train: Indices, labels: Tensor, balanced: bool, generator: torch.Generator
) -> Tensor:
    pool = torch.from_numpy(train)
    if not balanced:
        return pool[torch.randperm(len(pool), generator=generator)]
    pool_labels = labels.cpu()[pool]
    weights = 1.0 / torch.bincount(pool_labels).clamp_min(1).to(torch.float64)[pool_labels]
    return pool[torch.multinomial(weights, len(pool), replacement=True, generator=generator)]


def _batches(order: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yield slices of ``order``; batch norm cannot train on one image, so none is left alone."""
    start = 0
    while start < len(order):
        stop = start + batch_size
        if len(order) - stop == 1:
            stop += 1
        yield order[start:stop]
        start = stop


@torch.inference_mode()
def predict_log_probabilities(
    model: ImageClassifier,
    inputs: Inputs,
    indices: Indices,
    *,
    batch_size: int = 256,
    views: bool = True,
) -> npt.NDArray[np.float32]:
    """Return (len(indices), C) float32 log-probabilities of the images, in evaluation mode.

    Args:
        model: the network.
        inputs: where images come from.
        indices: which images.
        batch_size: images per forward pass, each in all its views; halved where memory is short.
        views: average over the model's test-time views; False: the image as it is.
    """
    model.eval()
    rows = []
    at_once = max(1, batch_size // model.num_test_views) if views else batch_size
    try:
        for batch in torch.split(torch.from_numpy(indices), at_once):
            logits = inputs.evaluate(model, batch, views=views)
            rows.append(torch.log_softmax(logits.float(), dim=1))
    except torch.OutOfMemoryError:
        if batch_size == 1:
            raise
        rows = []
    if not rows:
        return predict_log_probabilities(
            model, inputs, indices, batch_size=batch_size // 2, views=views
        )
    result: npt.NDArray[np.float32] = torch.cat(rows).cpu().numpy()
    return result


@torch.inference_mode()
def measure_latency(
    model: ImageClassifier, size_pixels: int, device: str, *, repeats: int = 20
) -> float:
    """Return the median time of one forward pass of one image, in milliseconds."""
    model.eval()
    pixels = torch.zeros(1, model.num_regions, size_pixels, size_pixels, device=device)
    seconds = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        model(pixels)
        if pixels.is_cuda:
            torch.cuda.synchronize(pixels.device)
        seconds.append(time.perf_counter() - started)
    # The first passes are slower: memory is reserved and kernels are chosen.
    return 1000 * statistics.median(seconds[3:])


def _mean_loss(model: ImageClassifier, inputs: Inputs, labels: Tensor, indices: Indices) -> float:
    log_probabilities = predict_log_probabilities(model, inputs, indices, views=False)
    truth = labels.cpu().numpy()[indices]
    return float(-log_probabilities[np.arange(len(indices)), truth].mean())
