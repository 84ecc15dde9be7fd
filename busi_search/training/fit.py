"""Training one model on one fold, an epoch at a time."""

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from busi_search.training.freezing import parameter_groups, set_training_mode
from busi_search.training.losses import LossFunction
from busi_search.training.zoo import ImageClassifier

Indices = npt.NDArray[np.int64]
Augmentation = Callable[[Tensor, Tensor, torch.Generator], tuple[Tensor, Tensor]]


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


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves over the epochs, and when training stops early.

    ``plateau`` halves the rate after ``plateau_patience`` epochs without a lower loss on the inner
    split; early stopping ends training after ``early_stopping_patience`` such epochs (0: never)
    and goes back to the weights of the best epoch.
    """

    name: str = "cosine"
    early_stopping_patience: int = 0
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    plateau_floor: float = 1e-5

    @property
    def needs_monitor(self) -> bool:
        """Whether an inner split has to be held out."""
        return self.name == "plateau" or self.early_stopping_patience > 0


def make_optimizer(
    model: ImageClassifier, name: str, *, learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    """Return an optimizer over the trainable parameters (``adam``, ``adamw`` or ``sgd``)."""
    groups = parameter_groups(model, weight_decay=weight_decay)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, nesterov=True)
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(groups, lr=learning_rate, fused=True)


def _make_scheduler(
    optimizer: torch.optim.Optimizer, schedule: Schedule, num_steps: int, learning_rate: float
) -> Any:
    """Return a scheduler stepped after every batch, or after every epoch for ``plateau``."""
    if schedule.name == "cosine":
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=num_steps)
    if schedule.name == "onecycle":
        # One step to spare: OneCycleLR refuses the step after its last.
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=learning_rate, total_steps=num_steps + 1
        )
    if schedule.name == "plateau":
        return torch.optim.lr_scheduler.ReduceLROnPlateau(
            optimizer,
            factor=schedule.plateau_factor,
            patience=schedule.plateau_patience,
            min_lr=schedule.plateau_floor,
        )
    return None


def fit_fold(
    model: ImageClassifier,
    images: Tensor,
    labels: Tensor,
    *,
    train: Indices,
    monitor: Indices | None,
    optimizer: torch.optim.Optimizer,
    loss_function: LossFunction,
    augmentation: Augmentation,
    schedule: Schedule,
    epochs: int,
    batch_size: int,
    freeze_depth: int,
    balanced_sampling: bool,
    seed: int,
) -> Iterator[EpochResult]:
    """Train ``model`` in place and yield after every epoch; stop iterating to stop training.

    Args:
        model: the network, on the device of the images.
        images: (N, 1, S, S) uint8 grey pixels of all development images.
        labels: (N,) int64, on the same device.
        train: indices of the images to learn from.
        monitor: indices of the inner split that schedules and early stopping watch, or None.
        optimizer: over the model's trainable parameters.
        loss_function: of logits (B, C) and targets (B, C).
        augmentation: of pixels, targets and a generator; gives pixels and targets.
        schedule: how the learning rate moves.
        epochs: number of passes over ``train``.
        batch_size: images per step; a last batch of one image joins the one before it.
        freeze_depth: number of frozen stages, kept in evaluation mode.
        balanced_sampling: draw images with replacement so that classes are even.
        seed: of the order of the images and of the augmentation.
    """
    generator = torch.Generator().manual_seed(seed)
    num_classes = int(labels.max()) + 1
    batches_per_epoch = max(1, math.ceil((len(train) - 1) / batch_size))
    learning_rate = float(optimizer.param_groups[0]["lr"])
    scheduler = _make_scheduler(optimizer, schedule, epochs * batches_per_epoch, learning_rate)
    best_loss, best_epoch, best_state = math.inf, 0, None
    for epoch in range(1, epochs + 1):
        set_training_mode(model, freeze_depth)
        order = _epoch_order(train, labels, balanced_sampling, generator)
        total = 0.0
        for batch in _batches(order, batch_size):
            targets = F.one_hot(labels[batch], num_classes).to(torch.float32)
            pixels, targets = augmentation(images[batch].to(torch.float32), targets, generator)
            loss = loss_function(model(pixels), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            if scheduler is not None and schedule.name != "plateau":
                scheduler.step()
            total += float(loss.detach()) * len(batch)
        monitor_loss = None
        if monitor is not None:
            monitor_loss = _mean_loss(model, images, labels, monitor, num_classes)
            if schedule.name == "plateau":
                scheduler.step(monitor_loss)
            if monitor_loss < best_loss:
                best_loss, best_epoch = monitor_loss, epoch
                best_state = copy.deepcopy(model.state_dict())
        patience = schedule.early_stopping_patience
        last = patience > 0 and epoch - best_epoch >= patience
        if patience > 0 and best_state is not None and (last or epoch == epochs):
            model.load_state_dict(best_state)
        rate = float(optimizer.param_groups[0]["lr"])
        yield EpochResult(epoch, total / len(order), monitor_loss, rate, stopped=last)
        if last:
            return


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
    model: ImageClassifier, images: Tensor, indices: Indices, *, batch_size: int = 256
) -> npt.NDArray[np.float32]:
    """Return (len(indices), C) float32 log-probabilities of the images, in evaluation mode.

    Args:
        model: the network.
        images: (N, 1, S, S) uint8 grey pixels.
        indices: which images.
        batch_size: images per forward pass.
    """
    model.eval()
    rows = [
        torch.log_softmax(model(images[batch].to(torch.float32)), dim=1)
        for batch in torch.split(torch.from_numpy(indices), batch_size)
    ]
    result: npt.NDArray[np.float32] = torch.cat(rows).to(torch.float32).cpu().numpy()
    return result


@torch.inference_mode()
def measure_latency(
    model: ImageClassifier, size_pixels: int, device: str, *, repeats: int = 20
) -> float:
    """Return the median time of one forward pass of one image, in milliseconds."""
    model.eval()
    pixels = torch.zeros(1, 1, size_pixels, size_pixels, device=device)
    seconds = []
    for _ in range(repeats + 3):
        started = time.perf_counter()
        model(pixels)
        if pixels.is_cuda:
            torch.cuda.synchronize(pixels.device)
        seconds.append(time.perf_counter() - started)
    # The first passes are slower: memory is reserved and kernels are chosen.
    return 1000 * statistics.median(seconds[3:])


def predict_probabilities(
    model: ImageClassifier, images: Tensor, indices: Indices, *, batch_size: int = 256
) -> npt.NDArray[np.float32]:
    """Return (len(indices), C) float32 probabilities; see :func:`predict_log_probabilities`."""
    return np.exp(predict_log_probabilities(model, images, indices, batch_size=batch_size))


def _mean_loss(
    model: ImageClassifier, images: Tensor, labels: Tensor, indices: Indices, num_classes: int
) -> float:
    log_probabilities = predict_log_probabilities(model, images, indices)
    truth = labels.cpu().numpy()[indices]
    return float(-log_probabilities[np.arange(len(indices)), truth].mean())
