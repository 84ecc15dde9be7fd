"""Stochastic depth: residual blocks that training skips, image by image."""

from collections.abc import Iterator

from torch import Tensor, nn

from busi_search.training.zoo import ImageClassifier

# Attributes that hold the last layer of a block's residual branch, by the name of its class, where
# torchvision's own blocks have no stochastic depth.
_LAST_OF_BRANCH = {
    "BasicBlock": ("bn2",),
    "Bottleneck": ("bn3",),
    "InvertedResidual": ("block",),
    "EncoderBlock": ("dropout", "mlp"),
    "ResidualBlock": ("bn2",),
}


class _SkipRows:
    """A forward hook: sets a branch's output to zero for some images while its block trains."""

    def __init__(self, block: nn.Module, rate: float) -> None:
        self._block, self._rate = block, rate

    def __call__(self, _module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Return (N, …) outputs, those that are kept divided by their probability."""
        from torchvision.ops import stochastic_depth

        # The block's mode, not that of the hooked layer: batch norm alone may be in training.
        result: Tensor = stochastic_depth(output, self._rate, "row", self._block.training)
        return result


def set_stochastic_depth(model: ImageClassifier, rate: float) -> int:
    """Let training skip residual blocks: of L blocks the l-th with probability l / L · ``rate``.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth" (linear decay).

    Args:
        model: the network, changed in place; call it once.
        rate: of the last block, in [0, 1).

    Returns:
        The number of residual blocks; 0 where the network has none and nothing changes.
    """
    from torchvision.ops import StochasticDepth

    blocks = list(_residual_blocks(model))
    for number, block in enumerate(blocks, start=1):
        own = [module for module in block.modules() if isinstance(module, StochasticDepth)]
        share = rate * number / len(blocks)
        for module in own:
            module.p = share
        if own or share == 0:
            continue
        for name in _LAST_OF_BRANCH[_kind(block)]:
            getattr(block, name).register_forward_hook(_SkipRows(block, share))
    return len(blocks)


def _kind(block: nn.Module) -> str:
    return type(block).__name__.lstrip("_")


def _residual_blocks(model: ImageClassifier) -> Iterator[nn.Module]:
    """Yield the blocks with a shortcut around them, in their order."""
    from torchvision.ops import StochasticDepth

    for module in model.stages.modules():
        if not getattr(module, "use_res_connect", True):
            continue
        children = module.children()
        if _kind(module) in _LAST_OF_BRANCH or any(
            isinstance(c, StochasticDepth) for c in children
        ):
            yield module
