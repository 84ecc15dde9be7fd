"""A network that takes grey pixels and gives logits: normalisation, stages and a head."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from busi_search.errors import InputError
from busi_search.training.readout import LastStage, Readout


def average_views(logits: Tensor) -> Tensor:
    """Map the (V, N, C) logits of V views to (N, C), whose softmax is the mean of theirs."""
    return torch.logsumexp(torch.log_softmax(logits, dim=2), dim=0)


class ImageClassifier(nn.Module):
    """Normalisation, a backbone in stages, and a head; grey pixels in, logits out.

    Of K regions of an image (the whole, the lesion) the same backbone gives features, which are put
    side by side before the head.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        stages: list[nn.Module],
        head: nn.Module,
        *,
        channels: int,
        min_size_pixels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        test_time_flip: bool = False,
        test_time_shift: int = 0,
        readout: Readout | None = None,
        pool_at: int | None = None,
        maps_channels_last: bool = False,
        num_regions: int = 1,
    ) -> None:
        super().__init__()
        self.readout, self.pool_at = readout, pool_at
        self.maps_channels_last = maps_channels_last
        self.num_regions = num_regions
        self.test_time_flip = test_time_flip
        self.test_time_shift = test_time_shift
        self.mask_head: nn.Module | None = None
        self.stages = nn.ModuleList(stages)
        self.head = head
        self.channels = channels
        self.min_size_pixels = min_size_pixels
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, K, S, S) grey levels in [0, 255] to (N, C) logits.

        Evaluation averages the probabilities of the :meth:`test_views`.
        """
        if self.training or self.num_test_views == 1:
            return self.classify(pixels)
        logits = self.classify(torch.cat(self.test_views(pixels)))
        return average_views(logits.view(self.num_test_views, -1, logits.shape[-1]))

    @property
    def num_test_views(self) -> int:
        """V: from how many views of an image it is predicted."""
        return (9 if self.test_time_shift else 1) * (2 if self.test_time_flip else 1)

    def test_views(self, pixels: Tensor) -> list[Tensor]:
        """Return V times (N, K, S, S): the images, moved by some pixels, and all mirrored.

        With ``test_time_shift`` they are moved by as many pixels in each of eight directions; what
        comes in at the border is reflected.
        """
        views, shift, size = [pixels], self.test_time_shift, pixels.shape[-1]
        if shift > 0:
            padded = F.pad(pixels, (shift, shift, shift, shift), mode="reflect")
            steps = (0, shift, 2 * shift)
            corners = [(y, x) for y in steps for x in steps if (y, x) != (shift, shift)]
            views += [padded[..., y : y + size, x : x + size] for y, x in corners]
        if self.test_time_flip:
            views += [view.flip(-1) for view in views]
        return views

    def classify(self, pixels: Tensor) -> Tensor:
        """Map (N, K, S, S) grey levels in [0, 255] to the (N, C) logits of one view."""
        return self.classify_features(self.features(self.normalise(pixels)))

    def classify_features(self, features: Tensor) -> Tensor:
        """Map the (N·K, num_features) features of N images to (N, C) logits."""
        logits: Tensor = self.head(self.regions_side_by_side(features))
        return logits

    def regions_side_by_side(self, features: Tensor) -> Tensor:
        """Map (N·K, num_features) to what the head sees, (N, K·num_features)."""
        if self.num_regions == 1:
            return features
        return features.reshape(-1, self.num_regions * features.shape[1])

    def with_head(self, head: nn.Module) -> "ImageClassifier":
        """Return a network with another head, which shares its stages with this one."""
        other = ImageClassifier(
            list(self.stages),
            head,
            channels=self.channels,
            min_size_pixels=self.min_size_pixels,
            mean=tuple(self.mean.flatten().tolist()),
            std=tuple(self.std.flatten().tolist()),
            test_time_flip=self.test_time_flip,
            test_time_shift=self.test_time_shift,
            readout=self.readout,
            pool_at=self.pool_at,
            maps_channels_last=self.maps_channels_last,
            num_regions=self.num_regions,
        )
        return other.to(self.mean.device)

    def shares_stages(self, other: "ImageClassifier") -> bool:
        """Whether two networks are the same up to their heads, one set of weights in memory."""
        pairs = zip(self.stages, other.stages, strict=True)
        return len(self.stages) == len(other.stages) and all(a is b for a, b in pairs)

    def add_mask_head(self, size_pixels: int) -> None:
        """Add an auxiliary output: where the lesion is, from the stage before the last.

        It is trained along and dropped before the model is used.

        Raises:
            InputError: that stage gives no image (a transformer's tokens).
        """
        self.eval()
        device = self.mean.device
        with torch.no_grad():
            shape = (1, self.num_regions, size_pixels, size_pixels)
            x = self.normalise(torch.zeros(shape, device=device))
            x = self.advance([x], stop=-1)[0]
        if x.ndim != 4 or x.shape[-1] > x.shape[1]:
            raise InputError("mask_weight needs a convolutional architecture; set it to 0.")
        self.mask_head = nn.Conv2d(x.shape[1], 1, kernel_size=1).to(device)

    def classify_and_segment(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, K, S, S) grey levels to (N, C) logits and (N·K, 1, H, W) logits of the lesion."""
        assert self.mask_head is not None, "add_mask_head comes first"
        state = self.advance([self.normalise(pixels)], stop=-1)
        mask: Tensor = self.mask_head(state[0])
        state = self.advance(state, start=len(self.stages) - 1)
        return self.classify_features(self.read(state)), mask

    def normalise(self, pixels: Tensor) -> Tensor:
        """Map (N, K, S, S) grey levels in [0, 255] to what the first stage expects, (N·K, …)."""
        x = pixels / 255.0
        if self.num_regions > 1:
            x = x.flatten(0, 1).unsqueeze(1)
        if x.shape[-1] < self.min_size_pixels:
            size = (self.min_size_pixels, self.min_size_pixels)
            x = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
        if self.channels > 1:
            x = x.expand(-1, self.channels, -1, -1)
        return ((x - self.mean) / self.std).contiguous(memory_format=torch.channels_last)

    def features(self, x: Tensor) -> Tensor:
        """Map what :meth:`normalise` gives to (N·K, num_features); :meth:`advance` does a part."""
        return self.read(self.advance([x]))

    def advance(
        self, state: list[Tensor], *, start: int = 0, stop: int | None = None
    ) -> list[Tensor]:
        """Run the stages from ``start`` to before ``stop``.

        Args:
            state: what the stage ``start`` takes, then what a readout has kept of stages before.
            start: index of the first stage to run.
            stop: index of the stage to stop before; negative ones count from the end.

        Returns:
            The same for the stage ``stop``; after the last stage :meth:`read` takes it.
        """
        stages = list(self.stages)
        for index in range(*slice(start, stop).indices(len(stages))):
            if self.readout is None:
                state = [stages[index](state[0])]
                continue
            x, *taken = state
            last = self.last_stage() if index == len(stages) - 1 else None
            x = stages[index](x) if last is None else last.maps(x)
            if index >= len(stages) - self.readout.num_layers:
                taken.append(self.readout.take(x, last))
            state = taken if last is not None else [x, *taken]
        return state

    def read(self, state: list[Tensor]) -> Tensor:
        """Map what :meth:`advance` gives after the last stage to (N, num_features)."""
        return state[0] if self.readout is None else self.readout.read(state, self.last_stage())

    def last_stage(self) -> LastStage:
        """Return the last stage, cut at its pooling."""
        assert self.pool_at is not None, "only convolutional networks have maps"
        return LastStage(self.stages[-1], self.pool_at)
