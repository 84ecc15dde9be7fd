"""A network that finds the lesion, so that nobody has to tell a model where it is."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from busi_search.training.weights import load_weights
from busi_search.training.zoo import build_model

ARCHITECTURE = "efficientnet_lite0"
# Side of the images in which lesions are looked for.
FINDER_SIZE_PIXELS = 160
# Grey pixels of the image from which a lesion is cut, per pixel of what the classifier sees.
SOURCE_RATIO = 2
# Maps have a quarter of the side; this many channels in the pyramid.
_STRIDE, _WIDTH = 4, 48
# Where the map is below this share of its maximum, it says nothing about the lesion's extent.
_FLOOR = 0.3
# Width of an ellipse in standard deviations of its points' positions, for weights above the floor.
_EXTENT = 4.0
# A window is never smaller than this share of the image.
_SMALLEST = 0.05

Images = npt.NDArray[np.uint8]


class LesionFinder(nn.Module):
    """A feature pyramid on EfficientNet-Lite 0 that starts from ImageNet weights.

    Source of the pyramid: Lin et al., Feature pyramid networks for object detection, CVPR 2017.
    """

    def __init__(self) -> None:
        super().__init__()
        self.net = build_model(ARCHITECTURE, num_classes=1, image_size_pixels=FINDER_SIZE_PIXELS)
        load_weights(self.net, ARCHITECTURE, "imagenet", FINDER_SIZE_PIXELS)
        self.net.head = nn.Identity()
        with torch.no_grad():
            side = FINDER_SIZE_PIXELS
            self.eval()
            maps = self._maps(torch.zeros(1, 1, side, side))
        self.laterals = nn.ModuleList(nn.Conv2d(x.shape[1], _WIDTH, 1) for x in maps)
        self.out = nn.Sequential(
            nn.Conv2d(_WIDTH, _WIDTH, 3, padding=1),
            nn.BatchNorm2d(_WIDTH),
            nn.ReLU(),
            nn.Conv2d(_WIDTH, 1, 1),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, 160, 160) grey levels in [0, 255] to (N, 1, 40, 40) logits of the lesion."""
        maps = self._maps(pixels)
        laterals = list(self.laterals)
        x: Tensor = laterals[-1](maps[-1])
        for lateral, finer in zip(laterals[-2::-1], maps[-2::-1], strict=True):
            x = lateral(finer) + F.interpolate(x, finer.shape[-2:], mode="bilinear")
        logits: Tensor = self.out(x)
        return logits

    def _maps(self, pixels: Tensor) -> list[Tensor]:
        """What the second to the last stage make, at a quarter to a thirty-second of the side."""
        x, made = self.net.normalise(pixels), []
        for stage in list(self.net.stages)[:-1]:
            x = stage(x)
            made.append(x)
        return [*made[1:], self.net.last_stage().maps(x)]


class LesionCrop(nn.Module):
    """The regions of an image that a classifier sees, cut out where the finders see a lesion.

    Args:
        finders: whose logits are averaged.
        size_pixels: side S of a region.
        region: ``lesion`` or ``both``, the whole image and then the lesion.
        margin: what is taken around the lesion on every side, in shares of its width and height.
        keeps_aspect: whether the lesion is shown in its proportions.
    """

    def __init__(
        self,
        finders: Sequence[LesionFinder],
        *,
        size_pixels: int,
        region: str,
        margin: float,
        keeps_aspect: bool,
    ) -> None:
        super().__init__()
        self.finders = nn.ModuleList(finders)
        self.size_pixels, self.region, self.margin = size_pixels, region, margin
        self.keeps_aspect = keeps_aspect

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, 2 S, 2 S) grey levels in [0, 255] to the (N, K, S, S) regions."""
        lesion = self._cut(pixels, self.windows(pixels))
        if self.region == "lesion":
            return lesion
        whole = F.avg_pool2d(pixels, SOURCE_RATIO)
        return torch.cat([whole, lesion], dim=1)

    def windows(self, pixels: Tensor) -> Tensor:
        """Return (N, 4) left, top, right and bottom edges of the lesions with their margin.

        Unit: shares of the image's width and height, from 0 to 1.
        """
        side = (FINDER_SIZE_PIXELS, FINDER_SIZE_PIXELS)
        small = F.interpolate(pixels, side, mode="bilinear", align_corners=False)
        maps = torch.stack([finder(small) for finder in self.finders]).mean(dim=0)
        centre, extent = extent_of(torch.sigmoid(maps)[:, 0])
        half = extent * (0.5 + self.margin)
        if self.keeps_aspect:
            half = half.amax(dim=1, keepdim=True).expand(-1, 2).clamp(max=0.5)
            centre = torch.maximum(torch.minimum(centre, 1 - half), half)
        half = half.clamp(min=_SMALLEST / 2)
        return torch.cat([(centre - half).clamp(0, 1), (centre + half).clamp(0, 1)], dim=1)

    def _cut(self, pixels: Tensor, windows: Tensor) -> Tensor:
        steps = (torch.arange(self.size_pixels, device=pixels.device) + 0.5) / self.size_pixels
        across = windows[:, 0:1] + steps * (windows[:, 2:3] - windows[:, 0:1])
        down = windows[:, 1:2] + steps * (windows[:, 3:4] - windows[:, 1:2])
        count, side = pixels.shape[0], self.size_pixels
        grid = torch.stack(
            [
                across.unsqueeze(1).expand(count, side, side),
                down.unsqueeze(2).expand(count, side, side),
            ],
            dim=3,
        )
        return F.grid_sample(pixels, 2 * grid - 1, padding_mode="border", align_corners=False)


def extent_of(share: Tensor) -> tuple[Tensor, Tensor]:
    """Return where a lesion is, by the moments of a map: they change little where it does.

    Args:
        share: (N, H, W) how likely every cell is lesion.

    Returns:
        (N, 2) its middle and (N, 2) its width and height, in shares of the map's.
    """
    weights = (share - _FLOOR * share.amax(dim=(1, 2), keepdim=True)).clamp(min=1e-6)
    weights = weights / weights.sum(dim=(1, 2), keepdim=True)
    height, width = share.shape[1:]
    x = (torch.arange(width, device=share.device) + 0.5) / width
    y = (torch.arange(height, device=share.device) + 0.5) / height
    columns, rows = weights.sum(dim=1), weights.sum(dim=2)
    middle = torch.stack([(columns * x).sum(dim=1), (rows * y).sum(dim=1)], dim=1)
    spread = torch.stack(
        [
            (columns * (x - middle[:, 0:1]) ** 2).sum(dim=1),
            (rows * (y - middle[:, 1:2]) ** 2).sum(dim=1),
        ],
        dim=1,
    )
    return middle, _EXTENT * spread.clamp(min=1e-8).sqrt()


def train_finder(
    images: Images, masks: Images, *, seed: int, num_steps: int, device: str = "cpu"
) -> LesionFinder:
    """Learn where lesions are.

    Args:
        images: (N, 160, 160) uint8, N at least 16.
        masks: (N, 160, 160) uint8, 255 where all of a pixel is lesion.
        seed: of the order, the new weights and the augmentation.
        num_steps: gradient steps of 16 images.
        device: PyTorch's name of the device.

    Returns:
        The finder on the CPU, in evaluation mode.
    """
    torch.manual_seed(seed)
    finder, batch = LesionFinder().to(device), 16
    own = [*finder.laterals.parameters(), *finder.out.parameters()]
    rates = [3e-4, 2e-3]
    optimizer = torch.optim.AdamW(
        [
            {"params": list(finder.net.stages.parameters()), "lr": rates[0]},
            {"params": own, "lr": rates[1]},
        ],
        weight_decay=0.01,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rates, num_steps, pct_start=0.15)
    finder.train()
    waiting: list[int] = []
    for _ in range(num_steps):
        if len(waiting) < batch:
            waiting = torch.randperm(len(images)).tolist()
        rows, waiting = waiting[:batch], waiting[batch:]
        pixels = torch.from_numpy(np.array(images[rows])).float().unsqueeze(1)
        target = torch.from_numpy(np.array(masks[rows])).float().unsqueeze(1) / 255
        pixels, target = _augmented(pixels, target)
        loss = _loss(finder(pixels.to(device)), F.avg_pool2d(target, _STRIDE).to(device))
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    return finder.cpu().eval()


def _loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy plus one minus the Dice coefficient."""
    share = torch.sigmoid(logits)
    both = (share * target).sum((1, 2, 3))
    dice = (2 * both + 1) / (share.sum((1, 2, 3)) + target.sum((1, 2, 3)) + 1)
    return F.binary_cross_entropy_with_logits(logits, target) + (1 - dice).mean()


def _augmented(pixels: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """The images and their masks, mirrored, scaled, shifted and with other grey levels."""
    count = len(pixels)
    zoom = torch.empty(count, 2).uniform_(0.75, 1.2)
    zoom[:, 0] *= torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    theta = torch.zeros(count, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = zoom[:, 0], zoom[:, 1]
    theta[:, :, 2] = torch.empty(count, 2).uniform_(-0.2, 0.2)
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    pixels = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    masks = F.grid_sample(masks, grid, align_corners=False)
    gamma = torch.empty(count, 1, 1, 1).uniform_(0.7, 1.4)
    return 255 * (pixels / 255).clamp(0, 1) ** gamma, masks
