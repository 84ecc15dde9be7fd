"""How the learning rate moves while a network is trained."""

import math
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Schedule:
    """How the learning rate moves over the epochs, and when training stops early.

    ``plateau`` multiplies the rate by ``plateau_factor`` after ``plateau_patience`` epochs without
    a lower loss on the inner split, down to ``min_learning_rate``, where ``cosine`` ends too. Early
    stopping ends training after ``early_stopping_patience`` such epochs (0: never) and goes back
    to the weights of the best epoch. Over the first ``warmup_epochs`` the rate rises evenly from
    near 0, except for ``onecycle``, which has a rise of its own.
    """

    name: str = "cosine"
    early_stopping_patience: int = 0
    plateau_factor: float = 0.5
    plateau_patience: int = 5
    min_learning_rate: float = 0.0
    warmup_epochs: int = 0

    @property
    def needs_monitor(self) -> bool:
        """Whether an inner split has to be held out."""
        return self.name == "plateau" or self.early_stopping_patience > 0


class LearningRate:
    """Moves an optimizer's learning rates as a schedule says.

    The groups' rates keep their ratios; ``min_learning_rate`` is that of the first group.

    Args:
        optimizer: whose rates they are; those it has are the schedule's highest.
        schedule: how the rate moves.
        epochs: that will be trained.
        batches: steps of an epoch.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, schedule: Schedule, epochs: int, batches: int
    ) -> None:
        self._optimizer = optimizer
        self._schedule = schedule
        self._bases = [float(group["lr"]) for group in optimizer.param_groups]
        self._step = 0
        self._warmup = 0 if schedule.name == "onecycle" else schedule.warmup_epochs * batches
        self._scheduler = self._make_scheduler(max(1, epochs * batches - self._warmup))

    @property
    def now(self) -> float:
        """The present rate of the first group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def _make_scheduler(self, num_steps: int) -> Any:
        schedule = self._schedule
        if schedule.name == "cosine":
            return self._make_cosine(num_steps)
        if schedule.name == "onecycle":
            # One step to spare: OneCycleLR refuses the step after its last.
            return torch.optim.lr_scheduler.OneCycleLR(
                self._optimizer, max_lr=self._bases, total_steps=num_steps + 1
            )
        if schedule.name == "plateau":
            shares = [base / self._bases[0] for base in self._bases]
            return torch.optim.lr_scheduler.ReduceLROnPlateau(
                self._optimizer,
                factor=schedule.plateau_factor,
                patience=schedule.plateau_patience,
                min_lr=[schedule.min_learning_rate * share for share in shares],
            )
        return None

    def _make_cosine(self, num_steps: int) -> Any:
        lowest = self._schedule.min_learning_rate
        if lowest == 0 or len(set(self._bases)) == 1:
            return torch.optim.lr_scheduler.CosineAnnealingLR(
                self._optimizer, T_max=num_steps, eta_min=lowest
            )
        # PyTorch's has one end for all groups: a slow one would rise to it.
        end = lowest / self._bases[0]

        def share(step: int) -> float:
            done = min(1.0, step / num_steps)
            return end + (1 - end) * (1 + math.cos(math.pi * done)) / 2

        return torch.optim.lr_scheduler.LambdaLR(self._optimizer, share)

    def before_step(self) -> None:
        """Rise evenly over the warm-up."""
        if self._step < self._warmup:
            for group, base in zip(self._optimizer.param_groups, self._bases, strict=True):
                group["lr"] = base * (self._step + 1) / self._warmup

    def after_step(self) -> None:
        """Follow a schedule that goes by steps."""
        self._step += 1
        by_steps = self._scheduler is not None and self._schedule.name != "plateau"
        if by_steps and self._step > self._warmup:
            self._scheduler.step()

    def after_epoch(self, monitor_loss: float) -> None:
        """Follow a schedule that goes by the loss of the inner split."""
        if self._schedule.name == "plateau":
            self._scheduler.step(monitor_loss)
