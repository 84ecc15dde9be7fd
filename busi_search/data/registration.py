"""Two images are laid over one another and compared by their texture, block by block."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
    Detail(56, 64, 64, 3.0, 8, 0.93),
    Detail(0, 28, 64, 6.0, 4, 0.95),
)
_MIN_COARSE_SIMILARITY = 0.75
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
    sides = [[resize(image, detail.pixels) for image in side] for side in (left, right)]
    similarity = torch.full((len(left),), -1.0)
    remaining = torch.arange(len(left))
    # The last blur takes out what JPEG and resampling change; frames of a sweep differ beyond it.
    for pixels, sigma, blur, num_steps, num_blocks in (
        (32, 5.0, 1.2, 10, 4),
        (64, 5.0, 1.5, 6, 4),
        (detail.canvas_pixels, detail.texture_pixels, 1.0, 4, detail.blocks),
    ):
        fixed, moving = (
            smooth(normalise(_canvas([side[k] for k in remaining], pixels), sigma), blur)
            for side in sides
        )
        views = _register(fixed, moving, views, num_steps)
        scores = _block_similarity(fixed, *look(moving, views), num_blocks)
        agree = scores >= _MIN_COARSE_SIMILARITY
        remaining, views, scores = remaining[agree], views[agree], scores[agree]
        if not len(remaining):
            return similarity
    similarity[remaining] = scores
    return similarity


def _canvas(images: Sequence[Grey], pixels: int) -> Tensor:
    grids = [torch.from_numpy(resize(image, pixels).copy()) for image in images]
    return torch.stack(grids)[:, None].float() / 255


def smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, 1, H, H); sigma in pixels, weights renormalised at the border."""
    at = torch.arange(images.shape[-1], dtype=torch.float32)
    # As a matrix product: many times faster than a convolution with one channel.
    kernel = torch.exp(-((at - at[:, None]) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    return kernel @ images @ kernel.T


def normalise(images: Tensor, sigma: float) -> Tensor:
    """Local contrast normalisation of (B, 1, H, W) in [0, 1]: brightness and gain drop out."""
    detail = images - smooth(images, sigma)
    return detail / (smooth(detail * detail, sigma).clamp(min=0).sqrt() + 0.03)


def look(images: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 1, H, H) seen through views (B, 2, 3), and where (0 or 1) there was something."""
    grid = functional.affine_grid(views, list(images.shape), align_corners=False)
    inside = (grid.abs().amax(-1) <= 1).float()[:, None]
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return seen, inside


def _register(fixed: Tensor, moving: Tensor, views: Tensor, num_steps: int) -> Tensor:
    """Views (B, 2, 3) improved until moving seen through them matches fixed, both (B, 1, H, H).

    Gauss-Newton on the squared difference (Lucas and Kanade 1981), with Cauchy weights so that
    burned-in text, which only one of the two has, does not pull.
    """
    size = fixed.shape[-1]
    at = (torch.arange(size) + 0.5) * 2 / size - 1
    border = functional.pad(torch.ones(1, 1, size - 2, size - 2), (1, 1, 1, 1))
    for _ in range(num_steps):
        seen, inside = look(moving, views)
        slopes = torch.cat(torch.gradient(seen, spacing=2 / size, dim=(3, 2)), 1)
        turned = torch.linalg.inv(views[:, :, :2]).mT
        slopes = (turned @ slopes.flatten(2)).view_as(slopes)
        jacobian = torch.stack([slopes * at, slopes * at[:, None], slopes], 2).flatten(1, 2)
        jacobian = jacobian.flatten(2)
        error = fixed - seen
        weights = (inside * border / (1 + error**2)).flatten(1)[:, None]
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


def _block_similarity(fixed: Tensor, moving: Tensor, inside: Tensor, num_blocks: int) -> Tensor:
    def pool(values: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(values * inside, num_blocks).flatten(1)

    covered = pool(torch.ones_like(fixed)).clamp(min=1e-6)
    mean_f, mean_m = pool(fixed) / covered, pool(moving) / covered
    variance_f = pool(fixed**2) / covered - mean_f**2
    variance_m = pool(moving**2) / covered - mean_m**2
    covariance = pool(fixed * moving) / covered - mean_f * mean_m
    correlation = covariance / (variance_f * variance_m).clamp(min=1e-8).sqrt()
    textured = (covered > 0.6) & (variance_f > 0.02) & (variance_m > 0.02)
    median = correlation.masked_fill(~textured, torch.nan).nanmedian(1).values
    enough = textured.float().mean(1) >= _MIN_TEXTURED_BLOCKS
    return torch.where(enough, median.clamp(max=1), -torch.ones_like(median))
