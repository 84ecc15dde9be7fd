"""Stochastic depth: residual blocks that training skips, image by image."""

from torch import Tensor, nn

# Attributes that hold the last layer of a block's residual branch, by the name of its class, where
# torchvision's blocks and ours have no stochastic depth of their own.
_LAST_OF_BRANCH = {
    "BasicBlock": ("bn2",),
    "Bottleneck": ("bn3",),
    "InvertedResidual": ("block",),
    "InvertedBottleneck": ("bn2",),
    "EncoderBlock": ("dropout", "mlp"),
    "ResidualBlock": ("bn2",),
}
# Where timm's blocks have a place for it, by whatever name.
_PLACES = ("drop_path", "drop_path1", "drop_path2")
# What says of a block whether there is a shortcut around it.
_SHORTCUT_FLAGS = ("use_res_connect", "has_shortcut", "has_skip")


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


def set_stochastic_depth(model: nn.Module, rate: float) -> int:
    """Let training skip residual blocks: of L blocks the l-th with probability l / L · ``rate``.

    Source: Huang et al. 2016, "Deep Networks with Stochastic Depth" (linear decay).

    Args:
        model: the network, changed in place; call it once.
        rate: of the last block, in [0, 1).

    Returns:
        The number of residual blocks; 0 where the network has none and nothing changes.
    """
    from torchvision.ops import StochasticDepth

    blocks = [(m, last) for m in model.modules() if (last := _ends_of_branches(m))]
    for number, (block, last) in enumerate(blocks, start=1):
        share = rate * number / len(blocks)
        for module in last:
            if isinstance(module, StochasticDepth):
                module.p = share
            elif share > 0:
                module.register_forward_hook(_SkipRows(block, share))
    return len(blocks)


def _ends_of_branches(block: nn.Module) -> list[nn.Module]:
    """Return the last module of each residual branch of a block; none if it is no such block."""
    from torchvision.ops import StochasticDepth

    if not all(getattr(block, flag, True) for flag in _SHORTCUT_FLAGS):
        return []
    children = dict(block.named_children())
    own = [child for child in children.values() if isinstance(child, StochasticDepth)]
    places = [children[name] for name in _PLACES if name in children]
    names = _LAST_OF_BRANCH.get(type(block).__name__, ())
    return own or places or [children[name] for name in names if name in children]
