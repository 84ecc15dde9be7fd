"""What a head sees of a network: the outputs of its last stages, pooled and side by side."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Poolings without weights of their own, of which frozen features can be kept.
FIXED_POOLINGS = ("avg", "max", "gem")
# Generalised mean: between the mean (1) and the maximum (infinite); the value that its authors
# start from.
GEM_POWER = 3.0
GEM_FLOOR = 1e-6


def pool_map(x: Tensor, pooling: str, grid: int) -> list[Tensor]:
    """Pool (N, C, H, W) maps to cells of a grid.

    Args:
        x: the output of a stage.
        pooling: ``avg``, ``max``, ``gem`` (generalised mean with power 3; negative values count as
            zero) or ``avgmax``.
        grid: number of cells a side, G.

    Returns:
        One (N, C, G, G) tensor; the mean and the maximum for ``avgmax``.

    Source of ``gem``: Radenović, Tolias, Chum, Fine-tuning CNN image retrieval with no human
    annotation, IEEE TPAMI 41 (2019).
    """
    if pooling == "avgmax":
        return [*pool_map(x, "avg", grid), *pool_map(x, "max", grid)]
    if pooling == "max":
        # ``amax`` exports with any batch size; one cell is by far the usual case.
        if grid == 1:
            return [x.amax(dim=(2, 3), keepdim=True)]
        return [F.adaptive_max_pool2d(x, grid)]
    if pooling == "gem":
        powers = x.clamp_min(GEM_FLOOR).pow(GEM_POWER)
        return [F.adaptive_avg_pool2d(powers, grid).pow(1 / GEM_POWER)]
    return [F.adaptive_avg_pool2d(x, grid)]


class LastStage:
    """The last stage of a convolutional network, as its maps and what follows their pooling."""

    def __init__(self, stage: nn.Module, pool_at: int) -> None:
        """Take the stage, a ``Sequential``, and the position of its pooling.

        Negative positions count from the end. Children after the pooling (flattening, a norm, a
        dense layer) see pooled maps only.
        """
        assert isinstance(stage, nn.Sequential)
        children = list(stage)
        pool_at %= len(children)
        self._body, self._after = children[:pool_at], children[pool_at + 1 :]
        size = getattr(children[pool_at], "output_size", 1)
        self.grid = int(size if isinstance(size, int) else size[0])

    def maps(self, x: Tensor) -> Tensor:
        """Map the output of the stage before to (N, C, H, W)."""
        for child in self._body:
            x = child(x)
        return x

    def vector(self, pooled: Tensor) -> Tensor:
        """Map pooled (N, C, G, G) to the (N, F) features that the network's authors use."""
        for child in self._after:
            pooled = child(pooled)
        return pooled


class Readout(nn.Module):
    """Pools the outputs of the last stages of a network and puts them side by side."""

    def __init__(self, pooling: str, channels: Sequence[int], *, channels_last: bool) -> None:
        """Take how to pool and the number of channels of each stage that is read.

        Args:
            pooling: ``avg``, ``max``, ``gem``, ``avgmax`` or ``attention``.
            channels: of the last stages, in their order.
            channels_last: the stages before the last give (N, H, W, C).
        """
        super().__init__()
        self.pooling, self.num_layers, self.channels_last = pooling, len(channels), channels_last
        learned = channels if pooling == "attention" else ()
        self.scores = nn.ModuleList(nn.Conv2d(width, 1, kernel_size=1) for width in learned)

    def take(self, x: Tensor, last: LastStage | None) -> Tensor:
        """Return what is kept of a stage's output: its pooled features, (N, F).

        Attention has weights that learn, so it keeps the (N, C, H, W) maps.

        Args:
            x: the output; of the last stage, its maps.
            last: the last stage, if it is this one.
        """
        if last is None and self.channels_last:
            x = x.permute(0, 3, 1, 2)
        if self.pooling == "attention":
            return x
        return pooled_features(x, self.pooling, last)

    def read(self, taken: Sequence[Tensor], last: LastStage) -> Tensor:
        """Put what was kept of all stages side by side: (N, F)."""
        if self.pooling != "attention":
            return torch.cat(list(taken), dim=1)
        parts = []
        for index, (x, score) in enumerate(zip(taken, self.scores, strict=True)):
            weights = torch.softmax(score(x).flatten(2), dim=2)
            pooled = (x.flatten(2) * weights).sum(dim=2)[..., None, None]
            parts.append(last.vector(pooled) if index == len(taken) - 1 else pooled.flatten(1))
        return torch.cat(parts, dim=1)


def pooled_features(x: Tensor, pooling: str, last: LastStage | None) -> Tensor:
    """Map the (N, C, H, W) output of a stage to (N, F) features without learned weights."""
    if last is None:
        return torch.cat([part.flatten(1) for part in pool_map(x, pooling, 1)], dim=1)
    return torch.cat([last.vector(part) for part in pool_map(x, pooling, last.grid)], dim=1)
