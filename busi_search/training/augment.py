"""Augmentation of a whole batch at once, on its device, with one draw per image."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

ERASE_SIDE = 0.30


@dataclass(frozen=True)
class AugmentationRanges:
    """What strength 1 means, operation by operation; 0 leaves an operation out.

    A study's own values, and the reasons for the defaults, are in its hyperparameters.

    Attributes:
        flip_horizontal, flip_vertical: probabilities; reached at strength one half.
        rotation_degrees: largest angle, either way.
        shift: largest shift, as a share of the side, either way.
        zoom: largest change of scale, either way.
        contrast: largest change of contrast, either way.
        brightness: largest change of brightness, as a share of the grey scale, either way.
        autocontrast: probability of stretching an image to the whole grey scale.
        gain_slope: largest change of gain from the middle to either end of the depth.
        speckle: largest deviation of multiplicative noise.
        erasing: probability of setting a square (30 % of the side at strength 1) to the mean.
    """

    flip_horizontal: float
    flip_vertical: float
    rotation_degrees: float
    shift: float
    zoom: float
    contrast: float
    brightness: float
    autocontrast: float
    gain_slope: float
    speckle: float
    erasing: float


def augment_batch(
    pixels: Tensor,
    strength: float,
    generator: torch.Generator,
    ranges: AugmentationRanges,
) -> Tensor:
    """Return randomly altered copies of ultrasound images; every image has draws of its own.

    Args:
        pixels: (N, K, S, S); the first channel holds float grey levels in [0, 255], further ones
            (a mask) are moved along with it and not altered otherwise.
        strength: in [0, 1], scales every operation; 0 returns the images as they are.
        generator: source of randomness, on the CPU.
        ranges: what strength 1 means.

    Returns:
        (N, K, S, S) floats in [0, 255].
    """
    if strength <= 0:
        return pixels
    num_images, channels, height, width = pixels.shape
    draws = torch.rand(14, num_images, generator=generator).to(pixels.device)
    signed = 2 * draws - 1
    grid = _sampling_grid(_affine(draws, strength, ranges), height, width)
    moved = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    out = _autocontrast(moved[:, :1], draws[13], strength * ranges.autocontrast)

    def per_image(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    contrast = per_image(1 + strength * ranges.contrast * signed[5])
    brightness = per_image(strength * 255 * ranges.brightness * signed[6])
    depth = torch.linspace(-1, 1, height, device=pixels.device).view(1, 1, -1, 1)
    gain = 1 + strength * ranges.gain_slope * per_image(signed[7]) * depth
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    # ((out - mean) * contrast + mean + brightness) * gain in one pass over the pixels.
    out = torch.addcmul((mean * (1 - contrast) + brightness) * gain, out, contrast * gain)
    if ranges.speckle > 0:
        noise = torch.randn(out.shape, generator=generator).to(pixels.device)
        out.addcmul_(out, noise.mul_(strength * ranges.speckle * per_image(draws[8])))
    if ranges.erasing > 0:
        out = _erase(out, draws[9:12], strength, ranges.erasing)
    out.clamp_(0, 255)
    return out if channels == 1 else torch.cat([out, moved[:, 1:].clamp(0, 255)], dim=1)


def _sampling_grid(matrix: Tensor, height: int, width: int) -> Tensor:
    """Return (N, H, W, 2) places to sample, as ``affine_grid`` does, in a third of its time."""
    device = matrix.device
    x = (2 * torch.arange(width, device=device) + 1) / width - 1
    y = (2 * torch.arange(height, device=device) + 1) / height - 1
    of_column = x.view(1, 1, -1, 1) * matrix[:, None, None, :, 0]
    of_row = y.view(1, -1, 1, 1) * matrix[:, None, None, :, 1] + matrix[:, None, None, :, 2]
    return of_column + of_row


def _affine(draws: Tensor, strength: float, ranges: AugmentationRanges) -> Tensor:
    """Return (N, 2, 3) matrices from (14, N) draws in [0, 1]."""
    angle, shift_x, shift_y, zoom = 2 * draws[1:5] - 1
    angle = angle * (strength * ranges.rotation_degrees * math.pi / 180)
    scale = 1 + strength * ranges.zoom * zoom
    often = min(1.0, 2 * strength)
    mirror = torch.where(draws[0] < often * ranges.flip_horizontal, -1.0, 1.0)
    upside_down = torch.where(draws[12] < often * ranges.flip_vertical, -1.0, 1.0)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = 2 * strength * ranges.shift
    rows = [
        cosine * mirror,
        -sine * upside_down,
        shift * shift_x,
        sine * mirror,
        cosine * upside_down,
        shift * shift_y,
    ]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _autocontrast(pixels: Tensor, whether: Tensor, probability: float) -> Tensor:
    """Stretch some images to the whole grey scale."""
    if probability <= 0:
        return pixels
    low = pixels.amin(dim=(1, 2, 3), keepdim=True)
    high = pixels.amax(dim=(1, 2, 3), keepdim=True)
    stretched = (pixels - low) * (255 / (high - low).clamp_min(1.0))
    return torch.where((whether < probability).view(-1, 1, 1, 1), stretched, pixels)


def _erase(pixels: Tensor, draws: Tensor, strength: float, probability: float) -> Tensor:
    """Set one square of an image to its mean, with a probability scaled by ``strength``."""
    whether, x, y = draws
    _, _, height, width = pixels.shape
    side = ERASE_SIDE * strength
    rows = (torch.arange(height, device=pixels.device) + 0.5) / height
    columns = (torch.arange(width, device=pixels.device) + 0.5) / width
    # A square that is not wanted has no rows.
    half = torch.where(whether < probability * strength, side / 2, 0.0)
    inside_rows = (rows[None, :] - y[:, None]).abs() < half[:, None]
    inside_columns = (columns[None, :] - x[:, None]).abs() < side / 2
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    return torch.where(inside, pixels.mean(dim=(1, 2, 3), keepdim=True), pixels)


def mixup(
    pixels: Tensor, targets: Tensor, generator: torch.Generator, *, alpha: float
) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with another image of the batch (Zhang et al. 2018).

    Args:
        pixels: (N, …) images or features.
        targets: (N, C) class probabilities.
        generator: source of randomness, on the CPU.
        alpha: parameter of the Beta(alpha, alpha) draw of each image; 0 changes nothing.
    """
    if alpha <= 0:
        return pixels, targets
    num_images = len(pixels)
    # A Beta draw from two Gamma draws, which unlike Beta accept a generator.
    shape = torch.full((2, num_images), alpha)
    gamma = torch._standard_gamma(shape, generator=generator).clamp_min(1e-30)
    share = (gamma[0] / gamma.sum(0)).to(pixels.device)
    other = torch.randperm(num_images, generator=generator).to(pixels.device)
    weight, target_weight = share.view(-1, *[1] * (pixels.ndim - 1)), share.view(-1, 1)
    return (
        weight * pixels + (1 - weight) * pixels[other],
        target_weight * targets + (1 - target_weight) * targets[other],
    )
