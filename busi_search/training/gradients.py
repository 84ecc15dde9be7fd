"""Gradients of a batch, in pieces where memory is short."""

from collections.abc import Callable

import torch
from torch import Tensor

from busi_search.training.losses import LossFunction

Forward = Callable[[Tensor], tuple[Tensor, Tensor | None]]


def accumulate_gradients(
    classify: Forward,
    optimizer: torch.optim.Optimizer,
    loss_function: LossFunction,
    inputs: Tensor,
    targets: Tensor,
    micro_batch: int,
) -> tuple[Tensor, int]:
    """Compute the gradients of one batch, in pieces of at most ``micro_batch`` images.

    If memory runs out, the pieces are halved and the batch is begun again. The gradients are those
    of the whole batch, but for batch norm, which sees one piece at a time.

    Args:
        classify: maps (B, …) inputs to (B, C) logits and (B,) further losses or None.
        optimizer: whose gradients are cleared first.
        loss_function: of logits (B, C) and targets (B, C).
        inputs: (B, …).
        targets: (B, C).
        micro_batch: images at once, as far as is known to fit.

    Returns:
        The loss of the batch (a scalar, detached) and the size of the pieces that fitted.

    Raises:
        torch.OutOfMemoryError: not even one image fits.
    """
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            loss = _backward(classify, loss_function, inputs, targets, micro_batch)
        except torch.OutOfMemoryError:
            size = min(micro_batch, len(inputs))
            if size == 1:
                raise
            micro_batch = -(-size // 2)
        else:
            return loss, micro_batch
        # Outside of the handler, whose traceback keeps the failed attempt's tensors alive.
        if inputs.is_cuda:
            torch.cuda.empty_cache()


def _backward(
    classify: Forward,
    loss_function: LossFunction,
    inputs: Tensor,
    targets: Tensor,
    micro_batch: int,
) -> Tensor:
    """Add the gradients piece by piece; on a GPU that can, activations are bfloat16.

    bfloat16 has the range of float32, so gradients need no scaling.
    """
    half = inputs.is_cuda and torch.cuda.is_bf16_supported()
    total = loss_function.total_weight(targets)
    count = -(-len(inputs) // micro_batch)
    loss = torch.zeros((), device=inputs.device)
    for some, wanted in zip(inputs.tensor_split(count), targets.tensor_split(count), strict=True):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=half):
            logits, further = classify(some)
        part = loss_function(logits.float(), wanted).sum() / total
        if further is not None:
            part = part + further.sum() / len(inputs)
        torch.autograd.backward(part)
        loss += part.detach()
    return loss
