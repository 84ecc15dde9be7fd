"""How a scene becomes an image: scatterers, pulse and beam, gain, and what a machine burns in.

Units and array shapes are those of :mod:`busi_search.data.phantom`.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from busi_search.data.phantom_scene import (
    Array,
    Mask,
    Scenes,
    insert_lesion,
    positions,
    tissue,
)

_PULSE_LENGTH = 0.0035  # standard deviation of the pulse along depth: 0.3 mm full width
_BEAM_WIDTHS = (0.007, 0.018)  # standard deviation of the beam in focus and far from it
_CARRIERS_CYCLES = (190.3, 280.3, 370.3)  # echo periods per image depth: 4 to 7 MHz, compounded
_TIME_GAIN = 40.0  # decibels lost, and restored by the machine, over the depth of the image
# Knots (depth, width) of the smooth random fields that make the tissue of a scene.
_FIELDS = {
    "septa": (24, 6),
    "lobules": (14, 11),
    "streaks": (56, 12),
    "fibres": (46, 6),
    "interior": (28, 23),
}


@lru_cache(maxsize=64)
def _spline(num_knots: int, num_samples: int) -> Array:
    """Cubic B-spline weights (num_samples, num_knots), scaled to keep unit variance of knots."""
    distance = np.abs((num_knots - 3) * positions(num_samples)[:, None] + 1 - np.arange(num_knots))
    near = 2 / 3 - distance**2 + distance**3 / 2
    weights = np.where(distance < 1, near, (2 - distance).clip(0) ** 3 / 6)
    return np.asarray(weights / np.sqrt(np.mean(np.sum(weights**2, axis=1))), np.float32)


@lru_cache(maxsize=8)
def _transfer_functions(grid: tuple[int, int], carrier_cycles: float) -> tuple[Array, Array]:
    """Pulse-beam spectra (Z, X), in and out of focus; the carrier is wrapped to the grid's band."""
    cycles = np.fft.fftfreq(grid[0], 1 / grid[0]) - carrier_cycles
    cycles -= grid[0] * np.rint(cycles / grid[0])
    pulse = np.exp(-0.5 * (2 * np.pi * _PULSE_LENGTH * cycles) ** 2)[:, None]
    lateral = 2 * np.pi * np.fft.fftfreq(grid[1], 1 / grid[1])
    focused, wide = (pulse * np.exp(-0.5 * (width * lateral) ** 2) for width in _BEAM_WIDTHS)
    focused, wide = (h / np.sqrt(np.mean(h**2)) for h in (focused, wide))
    return np.asarray(focused, np.float32), np.asarray(wide, np.float32)


def _complex_noise(
    rngs: list[np.random.Generator], grid: tuple[int, int]
) -> npt.NDArray[np.complex64]:
    """Circular Gaussian noise (B, Z, X) of unit mean power."""
    parts = np.stack([rng.standard_normal((2, *grid), np.float32) for rng in rngs], axis=1)
    return np.asarray((parts[0] + 1j * parts[1]) * np.sqrt(0.5), np.complex64)


def scan(
    scenes: Scenes,
    scene_rngs: list[np.random.Generator],
    image_rngs: list[np.random.Generator],
    grid: tuple[int, int],
) -> tuple[Array, Mask]:
    """Echo (B, Z, X) in decibels after time-gain compensation, and the lesions (B, Z, X)."""
    z, x = positions(grid[0])[:, None], positions(grid[1])
    smooth: Scenes = {}
    for name, knots in _FIELDS.items():
        field = np.stack([rng.standard_normal(knots, np.float32) for rng in scene_rngs])
        tall = np.einsum("zk,bkl->bzl", _spline(knots[0], grid[0]), field)
        smooth[name] = np.einsum("bzl,xl->bzx", tall, _spline(knots[1], grid[1]))
    bumps = np.stack([rng.standard_normal((3, 1, 7), np.float32) for rng in scene_rngs], axis=1)
    waves = np.einsum("wbok,xk->wbox", bumps, _spline(7, grid[1]))
    echo = tissue(scenes, smooth, waves, z, x)
    echo, excess, lesion = insert_lesion(scenes, echo, smooth["interior"], z, x)
    lost = _TIME_GAIN * z + np.cumsum(excess, axis=1) / grid[0]
    scatterers = _complex_noise(scene_rngs, grid) * 10 ** ((echo - lost) / 20)
    spectrum = np.fft.fft2(scatterers)
    electronic_noise = 10 ** (-58 / 20) * _complex_noise(image_rngs, grid)
    defocus = np.clip(np.abs(z - scenes["center_z"]) / 0.5, 0, 1)
    envelope = np.zeros_like(echo)
    for carrier_cycles in _CARRIERS_CYCLES:
        transfers = _transfer_functions(grid, carrier_cycles)
        focused, wide = (np.fft.ifft2(spectrum * transfer) for transfer in transfers)
        envelope += np.abs(focused + defocus * (wide - focused) + electronic_noise)
    gain = _TIME_GAIN * z - scenes["gain_error"] * z**1.5
    return 20 * np.log10(envelope / len(_CARRIERS_CYCLES) + 1e-9) + gain, lesion


def _area_average(values: Array, start: float, width: float, num_pixels: int) -> Array:
    """Mean of (Z, X) over ``num_pixels`` equal parts of the window along Z from ``start``."""
    edges = (start + width * np.arange(num_pixels + 1) / num_pixels) * len(values)
    whole = edges.astype(np.int64)
    total = np.cumsum(values, axis=0) - values
    at_edges = total[whole] + (edges - whole)[:, None] * values[whole]
    return np.asarray(np.diff(at_edges, axis=0) / (edges[1] - edges[0]))


def acquire(
    rng: np.random.Generator, echo: Array, lesion: Mask, size: int, *, marks_chance: float
) -> tuple[npt.NDArray[np.uint8], Mask]:
    """One frame as the machine stores it: gain, dynamic range, crop and perhaps burned-in marks."""
    gray = (0.61 + (echo + rng.normal(0, 1.5)) / rng.uniform(46, 56)).clip(0, 1)
    top, left = rng.uniform(0, 0.006), rng.uniform(0, 0.01)
    if rng.random() < marks_chance:
        _burn_marks(rng, gray, lesion)
    # The window ends before 0.985: the Fourier transform wraps the skin to the last rows.
    shrunk = [
        _area_average(_area_average(values, top, 0.975, size).T, left, 0.975, size).T
        for values in (gray.astype(np.float64), lesion.astype(np.float64))
    ]
    return np.rint(255 * shrunk[0].clip(0, 1)).astype(np.uint8), shrunk[1] >= 0.5


def _burn_marks(rng: np.random.Generator, gray: Array, lesion: Mask) -> None:
    """Draw two caliper crosses at the sides of what was measured, and a line like text."""
    dot = gray.shape[1] // 128  # columns; a dot has twice as many rows
    rows, columns = np.nonzero(lesion)
    if len(rows) == 0:  # a normal image: something was measured all the same
        rows, columns = rng.integers(20, 60, (2, 9)) * np.array([[2 * dot], [dot]])
    row = int(rows.mean())
    for column in (int(columns.min()), int(columns.max())):
        gray[row : row + 2 * dot, max(0, column - 3 * dot) : column + 4 * dot] = 0.9
        gray[max(0, row - 6 * dot) : row + 8 * dot, column : column + dot] = 0.9
    text = rng.random((3, 11)) < 0.6
    text[:, 3::4] = False
    text = np.kron(text, np.ones((2 * dot, dot), np.bool_))
    corner = gray[238 * dot :, 5 * dot :]
    corner[: text.shape[0], : text.shape[1]][text] = 0.8
