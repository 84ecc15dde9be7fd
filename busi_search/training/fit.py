"""Training one model on one fold, an epoch at a time."""

import math
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from busi_search.training.averaging import (
    BestEpoch,
    EpochAverage,
    MovingAverage,
    estimate_batch_norm,
)
from busi_search.training.classifier import ImageClassifier
from busi_search.training.freezing import (
    StageRates,
    freeze_backbone,
    parameter_groups,
    set_training_mode,
)
from busi_search.training.gradients import accumulate_gradients
from busi_search.training.inputs import Inputs
from busi_search.training.losses import LossFunction
from busi_search.training.schedule import LearningRate, Schedule

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SmallStart:
    """Smaller images that training begins with.

    Attributes:
        inputs: the same images, smaller.
        epochs: number of first epochs that are trained on them.
    """

    inputs: Inputs
    epochs: int


@dataclass(frozen=True)
class EpochResult:
    """What one epoch gave.

    Attributes:
        epoch: number of epochs done, from 1.
        train_loss: mean loss over the epoch's batches.
        monitor_loss: loss on the inner split, where there is one.
        learning_rate: at the end of the epoch.
        stopped: early stopping ended the training here.
        beginning: only the head is trained yet, or on smaller images; how well the network does now
            says little of how it will do in the end.
    """

    epoch: int
    train_loss: float
    monitor_loss: float | None
    learning_rate: float
    stopped: bool = False
    beginning: bool = False


def make_optimizer(
    model: ImageClassifier,
    name: str,
    *,
    learning_rate: float,
    weight_decay: float,
    rates: StageRates | None = None,
) -> torch.optim.Optimizer:
    """Return an optimizer over the trainable parameters (``adam``, ``adamw`` or ``sgd``).

    ``rates``: how the rates of the stages lie to ``learning_rate``, that of the head.
    """
    groups = parameter_groups(
        model, learning_rate=learning_rate, weight_decay=weight_decay, rates=rates
    )
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
    average_last_epochs: int = 0,
    head_only_epochs: int = 0,
    small: SmallStart | None = None,
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
        average_last_epochs: in the end take the mean of the weights after each of these epochs, and
            batch norm's statistics anew. 0: the weights of the last epoch.
        head_only_epochs: first epochs in which all stages are frozen; the optimizer must have been
            made before, over what is trained after them.
        small: what the first epochs are trained on instead of ``inputs``.
    """
    generator = torch.Generator().manual_seed(seed)
    truth = F.one_hot(labels).to(torch.float32)
    batches_per_epoch = max(1, math.ceil((len(train) - 1) / batch_size))
    rate = LearningRate(optimizer, schedule, epochs, batches_per_epoch)
    average, best = MovingAverage(model, weight_averaging), BestEpoch()
    last_epochs = EpochAverage(model)
    patience = schedule.early_stopping_patience
    micro_batch = batch_size + 1
    for epoch in range(1, epochs + 1):
        shown = small.inputs if small is not None and epoch <= small.epochs else inputs
        classify = partial(shown.forward, model)
        _set_depth(model, epoch, head_only_epochs, freeze_depth)
        order = _epoch_order(train, labels, balanced_sampling, generator)
        losses, sizes = [], []
        for batch in _batches(order, batch_size):
            examples, targets = shown.batch(batch, truth[batch], generator)
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
        if epoch > epochs - average_last_epochs:
            last_epochs.update()
        average.put_in()
        monitor_loss = None
        if monitor is not None:
            monitor_loss = _mean_loss(model, inputs, labels, monitor)
            rate.after_epoch(monitor_loss)
            best.compare(epoch, monitor_loss, model)
        waited = epoch - max(best.epoch, min(head_only_epochs, epoch))
        stopped = patience > 0 and waited >= patience
        last = stopped or epoch == epochs
        if last and patience > 0:
            best.restore(model)
        averaged = last and last_epochs.put_in()
        if last and (precise_batch_norm or averaged):
            shuffled = _batches(_epoch_order(train, labels, False, generator), batch_size)
            plain = partial(inputs.evaluate, model, views=False)
            augmented = partial(_forward_augmented, model, inputs, truth, generator)
            run = plain if precise_batch_norm else augmented
            estimate_batch_norm(model, shuffled, run, freeze_depth)
        beginning = max(head_only_epochs, 0 if small is None else small.epochs)
        yield EpochResult(
            epoch, train_loss, monitor_loss, rate.now, stopped=stopped, beginning=epoch <= beginning
        )
        if last:
            return
        average.take_out()


def _set_depth(
    model: ImageClassifier, epoch: int, head_only_epochs: int, freeze_depth: int
) -> None:
    """Freeze what an epoch does not train, and put the rest in training mode."""
    depth = min(freeze_depth, len(model.stages))
    if head_only_epochs > 0 and epoch in (1, head_only_epochs + 1):
        freeze_backbone(model, len(model.stages) if epoch == 1 else depth)
    set_training_mode(model, len(model.stages) if epoch <= head_only_epochs else depth)


def _forward_augmented(
    model: ImageClassifier, inputs: Inputs, truth: Tensor, generator: torch.Generator, batch: Tensor
) -> None:
    """Send images through a network whose layers are set, as in a training step."""
    # For the outermost module training means one view of each image, and no more.
    model.training = True
    inputs.forward(model, inputs.batch(batch, truth[batch], generator)[0])
    model.training = False


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
