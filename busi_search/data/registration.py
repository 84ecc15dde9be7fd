"""Two images are laid over one another and compared by their texture, block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from busi_search.data.scan_area import Grey, resize


@dataclass(frozen=True)
class Detail:
    """How a pair is judged, given the sharpness that both of its images have."""

    min_pixels: int  # the shorter side of the smaller image is at least this long
    pixels: int  # what both images are reduced to, so that neither is sharper
    canvas_pixels: int  # the grid they are compared on
    texture_pixels: float  # what is wider than this (a Gaussian's sigma) is not texture
    blocks: int  # per side
    min_similarity: float


DETAILS = (
    Detail(112, 128, 128, 3.0, 8, 0.92),
    Detail(56, 64, 64, 3.0, 8, 0.94),
    Detail(0, 28, 64, 6.0, 4, 0.95),
)
_FLAT_RANGE = 2
_COARSE_PIXELS = 64
_MIN_COARSE_SIMILARITY = 0.75
_COARSE_SHARE = 0.7
_FINE_STEPS = 6
_MIDBLUR = 1.0
_MIN_COVERED = 0.5
_CAUCHY = 0.5
_SMALLEST_WEIGHT = 1e-15
_MIN_TEXTURED_BLOCKS = 0.2


def by_detail(smaller: Tensor) -> Iterator[tuple[Detail, Tensor]]:
    """The positions of the pairs that each level of detail is to judge, by their sides (P,)."""
    left = torch.ones_like(smaller, dtype=torch.bool)
    for detail in DETAILS:
        chosen = left & (smaller >= detail.min_pixels)
        left &= ~chosen
        yield detail, chosen.nonzero()[:, 0]


def texture_similarity(
    left: Sequence[Grey], right: Sequence[Grey], views: Tensor, detail: Detail
) -> Tensor:
    """Median over blocks of the correlation of texture after registration, (B,) in [-1, 1].

    ``views`` (B, 2, 3) are the parts of ``right`` that resemble ``left``, about. -1 where too few
    blocks have any texture, or where already coarse structure does not agree.
    """
    fixed, moving = (_canvas(side, detail.pixels, _COARSE_PIXELS) for side in (left, right))
    similarity = torch.full((len(left),), -1.0)
    remaining = torch.arange(len(left))
    for pixels, blur, num_steps in ((_COARSE_PIXELS // 2, 1.2, 10), (_COARSE_PIXELS, 1.5, 6)):
        ours, theirs = (detail_of(*_reduced(*side, pixels), 5.0, blur) for side in (fixed, moving))
        views = _register(ours, theirs, views, num_steps)
        scores = _block_similarity(ours, *look(theirs, views), 4, _COARSE_SHARE)
        agree = scores >= _MIN_COARSE_SIMILARITY
        remaining, views = remaining[agree], views[agree]
        fixed, moving = ((image[agree], mask[agree]) for image, mask in (fixed, moving))
        if not len(remaining):
            return similarity
    pairs = [(left[k], right[k]) for k in remaining.tolist()]
    fixed, moving, views = _shared_parts(pairs, views, detail)
    # The last blur takes out what JPEG and resampling change; frames of a sweep differ beyond it.
    for pixels, blur in ((detail.canvas_pixels // 2, _MIDBLUR), (detail.canvas_pixels, 1.0)):
        ours, theirs = (
            detail_of(*_reduced(*side, pixels), detail.texture_pixels, blur)
            for side in (fixed, moving)
        )
        views = _register(ours, theirs, views, _FINE_STEPS)
    similarity[remaining] = _block_similarity(ours, *look(theirs, views), detail.blocks, 0.5)
    return similarity


def _shared_parts(
    pairs: Sequence[tuple[Grey, Grey]], views: Tensor, detail: Detail
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], Tensor]:
    """Canvases of the part that both images of a pair show, and the views between these parts.

    Without this a crop would be sharper than the whole, for more pixels show the same tissue.
    """
    corners = torch.tensor([(-1.0, -1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 1.0)])
    ours, theirs, between, sizes = [], [], [], []
    for (left, right), view in zip(pairs, views, strict=True):
        turn, shift = view[:, :2], view[:, 2]
        to_left = (corners - shift) @ torch.linalg.inv(turn).T
        one, centre, half = _cut(left, to_left)
        other, other_centre, other_half = _cut(right, (centre + half * corners) @ turn.T + shift)
        ours.append(one)
        theirs.append(other)
        moved = (turn @ centre + shift - other_centre) / other_half
        between.append(torch.cat([turn * half / other_half[:, None], moved[:, None]], 1))
        sizes.append(min(detail.pixels, *one.shape, *other.shape))
    fixed, moving = (_canvas(side, sizes, detail.canvas_pixels) for side in (ours, theirs))
    return fixed, moving, torch.stack(between)


def _cut(image: Grey, corners: Tensor) -> tuple[Grey, Tensor, Tensor]:
    """The part of an image that holds these corners (4, 2); its centre (2,) and half size (2,)."""
    size = torch.tensor([image.shape[1], image.shape[0]])
    low = ((corners.amin(0).clamp(-1, 0.9) + 1) / 2 * size).floor().long()
    high = ((corners.amax(0).clamp(-0.9, 1) + 1) / 2 * size).ceil().long()
    high = torch.maximum(high, low + 1)
    part = image[int(low[1]) : int(high[1]), int(low[0]) : int(high[0])]
    return part, (low + high) / size - 1, (high - low) / size


def _canvas(
    images: Sequence[Grey], sizes: int | Sequence[int], pixels: int
) -> tuple[Tensor, Tensor]:
    """Images as (B, 1, H, H) in [0, 1], and where (0 or 1) they show something.

    They are reduced to ``sizes`` first, so that none is sharper than its twin.
    """
    if isinstance(sizes, int):
        sizes = [sizes] * len(images)
    grids = [resize(resize(image, size), pixels) for image, size in zip(images, sizes, strict=True)]
    canvas = torch.from_numpy(np.stack(grids))[:, None]
    return canvas.float() / 255, has_content(canvas)


def _reduced(images: Tensor, mask: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
    factor = images.shape[-1] // pixels
    covered = functional.avg_pool2d(mask, factor)
    reduced = functional.avg_pool2d(images * mask, factor) / covered.clamp(min=1e-3)
    return reduced, (covered >= 0.5).float()


def has_content(images: Tensor) -> Tensor:
    """Where (0 or 1) images (B, 1, H, H) uint8 are not of one grey.

    Black corners and filled boxes, with what is written in them, have no content.
    """
    least = 255 - _most(255 - images, 1)
    flat = _most(images, 1) - least <= _FLAT_RANGE
    # Grown by 2 pixels and shrunk by 1: writing is closed over, and the box's edge covered.
    return _most(1 - _most(flat.to(torch.uint8), 2), 1).float()


def _most(images: Tensor, radius: int) -> Tensor:
    """The largest value within a square around each pixel of (B, 1, H, H) uint8."""
    size = images.shape[-1]
    for edges, dim in (((radius, radius), 3), ((0, 0, radius, radius), 2)):
        padded = functional.pad(images, edges)
        parts = [padded.narrow(dim, start, size) for start in range(2 * radius + 1)]
        images = reduce(torch.maximum, parts)
    return images


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, C, H, H); sigma in pixels, weights renormalised at the border."""
    at = torch.arange(images.shape[-1], dtype=torch.float32)
    # As a matrix product: many times faster than a convolution with one channel.
    kernel = torch.exp(-((at - at[:, None]) ** 2) / (2 * sigma**2))
    # Weights near the smallest numbers change nothing, and processors are slow at them.
    kernel = kernel.masked_fill(kernel < _SMALLEST_WEIGHT, 0)
    kernel = kernel / kernel.sum(1, keepdim=True)
    return kernel @ images @ kernel.T


def _local_mean(images: Tensor, sigma: float) -> Tensor:
    # At half the size: a quarter of the pixels and an eighth of the sums.
    half = smooth(functional.avg_pool2d(images, 2), sigma / 2)
    return functional.interpolate(half, scale_factor=2, mode="bilinear")


def detail_of(images: Tensor, mask: Tensor, sigma: float, blur: float) -> Tensor:
    """Local contrast normalisation of (B, 1, H, H) in [0, 1]: brightness and gain drop out.

    Returns (B, 2, H, H): what is finer than ``sigma`` pixels, blurred by ``blur``, and the mask,
    outside of which nothing is looked at: the edge of a box leaves no trace beside it.
    """
    means = _local_mean(torch.cat([mask, images * mask], 1), sigma)
    weight, mean = means[:, :1].clamp(min=1e-3), means[:, 1:]
    detail = (images - mean / weight) * mask
    energy = _local_mean(detail * detail, sigma) / weight
    detail = smooth(detail / (energy.sqrt() + 0.03), blur) * mask
    return torch.cat([detail, mask], 1)


def look(images: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Details (B, 2, H, H), with their masks, seen through views (B, 2, 3).

    Returns what is seen (B, 1, H, H), and where (0 to 1) there was something.
    """
    grid = _grid(views, images.shape[-1])
    inside = ((grid[..., 0].abs() <= 1) & (grid[..., 1].abs() <= 1)).float()[:, None]
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return seen[:, :1], seen[:, 1:] * inside


def see(images: Tensor, view: Tensor) -> Tensor:
    """Images (B, C, H, H), all seen through one view (1, 2, 3); over its edge, what is there."""
    grid = _grid(view, images.shape[-1]).expand(len(images), -1, -1, -1)
    return functional.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _grid(views: Tensor, size: int) -> Tensor:
    """Where the pixels of a square lie in what is seen through views (B, 2, 3): (B, H, H, 2).

    What `torch.nn.functional.affine_grid` gives, whose products of 3 by 2 numbers are slow.
    """
    at = (torch.arange(size) + 0.5) * 2 / size - 1
    along, down, shift = views[:, None, None].unbind(-1)
    return (along * at[:, None] + shift) + down * at[:, None, None]


def _register(fixed: Tensor, moving: Tensor, views: Tensor, num_steps: int) -> Tensor:
    """Views (B, 2, 3) improved until moving seen through them matches fixed, both (B, 2, H, H).

    Gauss-Newton on the squared difference (Lucas and Kanade 1981), with Cauchy weights so that
    burned-in text, which only one of the two has, does not pull.
    """
    size = fixed.shape[-1]
    at = (torch.arange(size) + 0.5) * 2 / size - 1
    mask = fixed[:, 1:] * functional.pad(torch.ones(1, 1, size - 2, size - 2), (1, 1, 1, 1))
    for _ in range(num_steps):
        seen, inside = look(moving, views)
        slopes = torch.cat(torch.gradient(seen, spacing=2 / size, dim=(3, 2)), 1)
        turned = torch.linalg.inv(views[:, :, :2]).mT
        slopes = (turned @ slopes.flatten(2)).view_as(slopes)
        jacobian = torch.stack([slopes * at, slopes * at[:, None], slopes], 2).flatten(1, 2)
        jacobian = jacobian.flatten(2)
        error = fixed[:, :1] - seen
        weights = (inside * mask / (1 + (error / _CAUCHY) ** 2)).flatten(1)[:, None]
        weighted = jacobian * weights
        curvature = weighted @ jacobian.mT + 0.01 * size * torch.eye(6)
        step = torch.linalg.solve(curvature, weighted @ error.flatten(1)[..., None])
        views = _bounded(views + step.clamp(-0.1, 0.1).view(-1, 2, 3))
    return views


def _bounded(views: Tensor) -> Tensor:
    """Views that shift, zoom and turn no further than copies do."""
    low = torch.tensor([[0.55, -0.15, -0.6], [-0.15, 0.55, -0.6]])
    high = torch.tensor([[1.8, 0.15, 0.6], [0.15, 1.8, 0.6]])
    return torch.minimum(torch.maximum(views, low), high)


def _block_similarity(
    fixed: Tensor, moving: Tensor, inside: Tensor, num_blocks: int, share: float
) -> Tensor:
    """Correlation that this share of the textured blocks do not exceed, (B,)."""
    inside = inside * fixed[:, 1:]
    fixed = fixed[:, :1]

    def pool(values: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(values * inside, num_blocks).flatten(1)

    covered = pool(torch.ones_like(fixed))
    weight = covered.clamp(min=1e-6)
    mean_f, mean_m = pool(fixed) / weight, pool(moving) / weight
    variance_f = pool(fixed**2) / weight - mean_f**2
    variance_m = pool(moving**2) / weight - mean_m**2
    covariance = pool(fixed * moving) / weight - mean_f * mean_m
    correlation = covariance / (variance_f * variance_m).clamp(min=1e-8).sqrt()
    textured = (covered > _MIN_COVERED) & (variance_f > 0.02) & (variance_m > 0.02)
    quantile = correlation.masked_fill(~textured, torch.nan).nanquantile(share, 1)
    enough = textured.float().mean(1) >= _MIN_TEXTURED_BLOCKS
    return torch.where(enough, quantile.clamp(max=1), -torch.ones_like(quantile))
