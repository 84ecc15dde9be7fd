"""Augmentation of a whole batch at once, on its device, with one draw per image."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# What strength 1 means. Depth has a direction in ultrasound (shadows fall down), so there is no
# vertical flip and rotations stay moderate.
MAX_ROTATION_DEGREES = 30.0
MAX_SHIFT = 0.15
MAX_ZOOM = 0.20
MAX_CONTRAST = 0.40
MAX_BRIGHTNESS = 50.0
MAX_SPECKLE = 0.30
MAX_GAIN_SLOPE = 0.40
ERASE_PROBABILITY = 0.50
ERASE_SIDE = 0.30


def augment_batch(pixels: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return randomly altered copies of ultrasound images; every image has draws of its own.

    Horizontal flip, rotation, shift, zoom, contrast, brightness, gain along depth, multiplicative
    speckle and erasing of one rectangle, all scaled by ``strength``.

    Args:
        pixels: (N, 1, S, S) float grey levels in [0, 255].
        strength: in [0, 1]; 0 returns the images as they are.
        generator: source of randomness, on the CPU.

    Returns:
        (N, 1, S, S) float grey levels in [0, 255].
    """
    if strength <= 0:
        return pixels
    num_images, _, height, width = pixels.shape
    draws = torch.rand(12, num_images, generator=generator).to(pixels.device)
    signed = 2 * draws - 1
    matrix = _affine(draws[0], signed[1], signed[2], signed[3], signed[4], strength)
    grid = F.affine_grid(matrix, [num_images, 1, height, width], align_corners=False)
    out = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)

    def per_image(values: Tensor) -> Tensor:
        return values.view(-1, 1, 1, 1)

    contrast = per_image(1 + strength * MAX_CONTRAST * signed[5])
    brightness = per_image(strength * MAX_BRIGHTNESS * signed[6])
    depth = torch.linspace(-1, 1, height, device=pixels.device).view(1, 1, -1, 1)
    gain = 1 + strength * MAX_GAIN_SLOPE * per_image(signed[7]) * depth
    mean = out.mean(dim=(1, 2, 3), keepdim=True)
    out = ((out - mean) * contrast + mean + brightness) * gain
    noise = torch.randn(out.shape, generator=generator).to(pixels.device)
    out = out * (1 + strength * MAX_SPECKLE * per_image(draws[8]) * noise)
    out = _erase(out, draws[9], draws[10], draws[11], strength)
    return out.clamp(0, 255)


def _affine(
    flip: Tensor, rotation: Tensor, shift_x: Tensor, shift_y: Tensor, zoom: Tensor, strength: float
) -> Tensor:
    """Return (N, 2, 3) matrices from draws: ``flip`` in [0, 1], the others in [-1, 1]."""
    angle = rotation * (strength * MAX_ROTATION_DEGREES * math.pi / 180)
    scale = 1 + strength * MAX_ZOOM * zoom
    mirror = torch.where(flip < 0.5 * min(1.0, 2 * strength), -1.0, 1.0)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    shift = 2 * strength * MAX_SHIFT
    rows = [cosine * mirror, -sine, shift * shift_x, sine * mirror, cosine, shift * shift_y]
    return torch.stack(rows, dim=1).view(-1, 2, 3)


def _erase(pixels: Tensor, whether: Tensor, x: Tensor, y: Tensor, strength: float) -> Tensor:
    """Set one square of an image to its mean, with probability ``strength`` × one half."""
    _, _, height, width = pixels.shape
    side = ERASE_SIDE * strength
    rows = (torch.arange(height, device=pixels.device) + 0.5) / height
    columns = (torch.arange(width, device=pixels.device) + 0.5) / width
    inside_rows = (rows[None, :] - y[:, None]).abs() < side / 2
    inside_columns = (columns[None, :] - x[:, None]).abs() < side / 2
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    inside = inside & (whether < ERASE_PROBABILITY * strength).view(-1, 1, 1, 1)
    return torch.where(inside, pixels.mean(dim=(1, 2, 3), keepdim=True), pixels)


def mixup(
    pixels: Tensor, targets: Tensor, alpha: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with another image of the batch (Zhang et al. 2018).

    Args:
        pixels: (N, 1, S, S).
        targets: (N, C) class probabilities.
        alpha: parameter of the Beta(alpha, alpha) draw of each image; 0 changes nothing.
        generator: source of randomness, on the CPU.
    """
    if alpha <= 0:
        return pixels, targets
    num_images = len(pixels)
    # A Beta draw from two Gamma draws, which unlike Beta accept a generator.
    shape = torch.full((2, num_images), alpha)
    gamma = torch._standard_gamma(shape, generator=generator).clamp_min(1e-30)
    share = (gamma[0] / gamma.sum(0)).to(pixels.device)
    other = torch.randperm(num_images, generator=generator).to(pixels.device)
    weight, target_weight = share.view(-1, 1, 1, 1), share.view(-1, 1)
    return (
        weight * pixels + (1 - weight) * pixels[other],
        target_weight * targets + (1 - target_weight) * targets[other],
    )
