"""Simulated breast ultrasound: the embedded default dataset, with its truth known.

A scene (tissue layers, perhaps a lesion) is a map of echo strength and of attenuation. Random
scatterers weighted by it are convolved with pulse and beam, envelope-detected and log-compressed,
as in a B-mode scanner. Lengths are fractions of the image side (about 40 mm), echo strengths are
decibels relative to glandular tissue. Array shapes: B images, S scenes, Z depths, X columns.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.errors import InputError

CLASS_NAMES = ("benign", "malignant", "normal")
BENIGN, MALIGNANT, NORMAL = range(3)
FOLDER_NAME = "Dataset_BUSI_with_GT"

_PULSE_LENGTH = 0.0035  # standard deviation of the pulse along depth: 0.3 mm full width
_BEAM_WIDTHS = (0.007, 0.018)  # standard deviation of the beam in focus and far from it
_CARRIERS_CYCLES = (190.3, 280.3, 370.3)  # echo periods per image depth: 4 to 7 MHz, compounded
_TIME_GAIN = 40.0  # decibels lost, and restored by the machine, over the depth of the image
_SAMPLES_PER_CHUNK = 2**19  # at most about 100 MB of temporaries

# Knots (depth, width) of the smooth random fields that make the tissue of a scene.
_FIELDS = {
    "septa": (24, 6),
    "lobules": (14, 11),
    "streaks": (56, 12),
    "fibres": (46, 6),
    "interior": (28, 23),
}

_Array = npt.NDArray[np.floating]
_Index = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_Scenes = dict[str, _Array]  # what _draw_scenes draws, by name: (S,), or (B, 1, 1) for a chunk


@dataclass(frozen=True)
class Phantom:
    """Simulated images with lesion masks, labels and the scene each image shows.

    ``images`` (N, H, W) uint8; ``masks`` (N, H, W), True on the lesion, all False in a normal
    image; ``labels`` (N,) index into ``class_names``; ``groups`` (N,), where near-duplicates, that
    is images of one scene, share a number.
    """

    images: npt.NDArray[np.uint8]
    masks: npt.NDArray[np.bool_]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    class_names: tuple[str, ...]


def simulate_phantom(num_images: int = 300, *, size_pixels: int = 64, seed: int = 0) -> Phantom:
    """Simulate a labelled set of breast-ultrasound images: hard like BUSI, but with known truth.

    ``num_images`` is at least 30, ``size_pixels`` (height and width) 28 to 512, ``seed`` not
    negative; equal arguments give equal bytes, and up to 128 pixels a seed shows the same scenes
    at every size. Class shares are BUSI's. About 10 % of the images are near-duplicates of
    another; from 100 images on about 1 % contradict their twin's label. Raises InputError.

    Speckle after Bamber and Dickinson 1980 (10.1088/0031-9155/25/3/006); signs of malignancy after
    Stavros et al. 1995 (10.1148/radiology.196.1.7784555).
    """
    if num_images < 30:
        raise InputError(f"A phantom needs at least 30 images, but num_images is {num_images}.")
    if not 28 <= size_pixels <= 512:
        raise InputError(f"size_pixels must be between 28 and 512, but it is {size_pixels}.")
    if seed < 0:
        raise InputError(f"The seed of a phantom must not be negative, but it is {seed}.")
    rng = np.random.default_rng([seed, 0])
    groups, labels = _plan_images(rng, num_images)
    scenes = _draw_scenes(rng, labels[np.unique(groups, return_index=True)[1]])
    order = rng.permutation(num_images)
    groups, labels = groups[order], labels[order]
    originals = set(np.unique(groups, return_index=True)[1].tolist())
    images = np.empty((num_images, size_pixels, size_pixels), np.uint8)
    masks = np.empty(images.shape, np.bool_)
    grid = (max(256, 2 * size_pixels), max(128, size_pixels))
    chunk_size = max(1, _SAMPLES_PER_CHUNK // (grid[0] * grid[1]))
    for start in range(0, num_images, chunk_size):
        chunk = range(start, min(start + chunk_size, num_images))
        shown = groups[chunk.start : chunk.stop]
        # Randomness comes per scene and per image, so that the chunk size changes nothing.
        scene_rngs = [np.random.default_rng([seed, 1, int(group)]) for group in shown]
        image_rngs = [np.random.default_rng([seed, 2, image]) for image in chunk]
        taken = {name: values[shown, None, None] for name, values in scenes.items()}
        echoes, lesions = _scan(taken, scene_rngs, image_rngs, grid)
        for image, image_rng, echo, lesion in zip(chunk, image_rngs, echoes, lesions, strict=True):
            images[image], masks[image] = _acquire(
                image_rng,
                echo,
                lesion & (labels[image] != NORMAL),
                size_pixels,
                marks_chance=0.05 if image in originals else 0.5,
            )
    return Phantom(images, masks, labels, groups, CLASS_NAMES)


def write_phantom(directory: Path, phantom: Phantom) -> list[Path]:
    """Write the images and masks as PNG files in the layout in which Kaggle ships BUSI.

    Makes ``directory/Dataset_BUSI_with_GT/benign/benign (1).png``, ``benign (1)_mask.png`` (0 or
    255) and so on, numbered from 1 in each class; all of it appears at once or not at all. Returns
    the paths of the images, in the phantom's order. Raises InputError when the folder has content.
    """
    target = directory / FOLDER_NAME
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is not empty; name another directory or remove it first.")
    directory.mkdir(parents=True, exist_ok=True)
    num_written = dict.fromkeys(phantom.class_names, 0)
    paths = []
    with tempfile.TemporaryDirectory(dir=directory, prefix=f".{FOLDER_NAME}-") as temporary:
        staging = Path(temporary) / FOLDER_NAME
        for name in phantom.class_names:
            (staging / name).mkdir(parents=True)
        for image, mask, label in zip(phantom.images, phantom.masks, phantom.labels, strict=True):
            name = phantom.class_names[label]
            num_written[name] += 1
            stem = f"{name} ({num_written[name]})"
            Image.fromarray(image).save(staging / name / f"{stem}.png")
            Image.fromarray(mask.astype(np.uint8) * 255).save(staging / name / f"{stem}_mask.png")
            paths.append(target / name / f"{stem}.png")
        staging.replace(target)
    return paths


def _plan_images(rng: np.random.Generator, num_images: int) -> tuple[_Index, _Index]:
    """Scene and label of every image, with exact class counts; contradicting pairs come first."""
    remaining = np.array([round(0.56 * num_images), round(0.27 * num_images), 0])
    remaining[NORMAL] = num_images - remaining.sum()
    num_twins = round(0.10 * num_images)
    num_conflicts = round(0.005 * num_images) or int(num_images >= 100)
    num_triples = round(num_twins / 15)
    num_pairs = (num_twins - 2 * num_conflicts - 3 * num_triples) // 2
    labels = [BENIGN, MALIGNANT] * num_conflicts
    remaining[:NORMAL] -= num_conflicts
    sizes = [2] * num_conflicts + [3] * num_triples + [2] * num_pairs
    for size in sizes[num_conflicts:]:
        label = int(rng.choice(3, p=remaining / remaining.sum()))
        labels += [label] * size
        remaining[label] -= size
    labels += rng.permutation(np.repeat(np.arange(3), remaining)).tolist()
    sizes += [1] * int(remaining.sum())
    return np.repeat(np.arange(len(sizes)), sizes), np.array(labels, np.int64)


def _sigmoid(values: _Array) -> _Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values))


def _draw_suspicion(rng: np.random.Generator, kinds: _Index) -> _Array:
    """Latent suspicion (S,) of scenes of the given classes: like lesions need not be of one class.

    A lesion's label is a coin whose chance of malignancy rises with its suspicion; lesions are
    drawn until each class has as many as it needs. A normal scene may resemble a harmless one.
    """
    candidates = rng.normal(-0.4, 1.5, size=40 * len(kinds) + 400)
    is_malignant = rng.random(candidates.size) < _sigmoid(4.0 * candidates)
    suspicion = rng.normal(-0.8, 0.8, size=len(kinds))
    for kind in (BENIGN, MALIGNANT):
        wanted = kinds == kind
        suspicion[wanted] = candidates[is_malignant == (kind == MALIGNANT)][: wanted.sum()]
    return suspicion


def _draw_scenes(rng: np.random.Generator, kinds: _Index) -> _Scenes:
    """Draw layers, position and signs; each sign follows the suspicion with noise of its own."""
    count = len(kinds)
    suspicion = _draw_suspicion(rng, kinds)

    def sign(harmless: float, suspicious: float) -> _Array:
        atypical = np.where(rng.random(count) < 0.06, -1, 1)
        weight = _sigmoid(1.8 * (atypical * suspicion + rng.normal(0, 0.6, count)))
        return harmless + (suspicious - harmless) * weight

    fat_depth = rng.uniform(0.12, 0.34, count)
    lookalike = 0.4 * rng.uniform(0, 1, count) ** 2
    scenes = {
        "skin_depth": rng.uniform(0.02, 0.045, count),
        "fat_depth": fat_depth,
        "muscle_depth": (fat_depth + rng.uniform(0.25, 0.6, count)).clip(0, 0.92),
        "fattiness": rng.uniform(0, 1, count),
        "tilt": rng.normal(0, 0.06, count),
        "gain_error": rng.uniform(4, 28, count),  # decibels missing at the bottom
        "contact_loss": (rng.random(count) < 0.3) * rng.uniform(5, 25, count),  # below contact_x
        "contact_x": rng.uniform(0, 1, count),
        "center_x": rng.normal(0.5, 0.13, count).clip(0.2, 0.8),
        "center_z": rng.normal(0.38, 0.09, count).clip(0.2, 0.62),
        "radius": np.exp(rng.normal(-1.95, 0.3, count) + 0.1 * suspicion).clip(0.07, 0.28),
        "aspect": np.exp(sign(-0.65, 0.2) + rng.normal(0, 0.12, count)),  # height / width
        "phase": rng.uniform(0, 2 * np.pi, count),
        "visibility": np.where(
            kinds == NORMAL, lookalike, rng.normal(0.95, 0.2, count).clip(0.45, 1.3)
        ),
        "contrast": -rng.normal(14, 4, count).clip(6, 26) - 10 * (rng.random(count) < 0.2),
        "lobulation": sign(0.03, 0.16),
        "spiculation": sign(-0.07, 0.16).clip(0),
        "margin": sign(0.02, 0.3),  # width of the blurred border, per radius
        "capsule": sign(9, -3).clip(0),
        "halo": sign(-3, 7).clip(0),
        "calcification": sign(-9, 11).clip(0),
        # Decibels per image depth: less than around it enhances what lies behind, more shadows.
        "attenuation": sign(-45, 45) + rng.normal(0, 12, count),
    }
    return {name: np.asarray(values, np.float32) for name, values in scenes.items()}


def _positions(num_samples: int) -> _Array:
    return np.asarray((np.arange(num_samples) + 0.5) / num_samples, np.float32)


@lru_cache(maxsize=64)
def _spline(num_knots: int, num_samples: int) -> _Array:
    """Cubic B-spline weights (num_samples, num_knots), scaled to keep unit variance of knots."""
    distance = np.abs((num_knots - 3) * _positions(num_samples)[:, None] + 1 - np.arange(num_knots))
    near = 2 / 3 - distance**2 + distance**3 / 2
    weights = np.where(distance < 1, near, (2 - distance).clip(0) ** 3 / 6)
    return np.asarray(weights / np.sqrt(np.mean(np.sum(weights**2, axis=1))), np.float32)


def _ridge(field: _Array, width: float) -> _Array:
    """1 where a smooth field changes sign, falling to 0 beside it: thin curved sheets."""
    return np.asarray(np.exp(-((field / width) ** 2)))


def _tissue(scenes: _Scenes, smooth: _Scenes, waves: _Array, z: _Array, x: _Array) -> _Array:
    """Echo strength (B, Z, X) in decibels of skin, fat, gland, fascia and muscle."""
    streaks = smooth["streaks"]
    fat = -11 + 1.5 * streaks + 16 * _ridge(smooth["septa"], 0.08)
    fat_lobules = _sigmoid(-5 * (smooth["lobules"] + 1.4 - 1.2 * scenes["fattiness"]))
    gland = -1 + 2 * streaks - 8 * fat_lobules + 11 * _ridge(streaks + 0.6, 0.25)
    muscle = -11 + 2 * streaks + 13 * _ridge(smooth["fibres"], 0.18)
    below_fat = z - scenes["fat_depth"] - 0.02 * waves[0]
    below_gland = z - scenes["muscle_depth"] - 0.012 * waves[1]
    echo = fat + (gland - fat) * _sigmoid(below_fat / 0.006)
    echo += (muscle - echo) * _sigmoid(below_gland / 0.012)
    echo += 8 * _ridge(below_fat, 0.006) + 14 * _ridge(below_gland, 0.006)
    bend = np.rint((scenes["tilt"] * (x - 0.5) + 0.012 * waves[2]) * z.size).astype(np.int64)
    rows = np.clip(np.arange(z.size)[:, None] - bend, 0, z.size - 1)
    skin = 4 - 9 * _ridge(z - 0.5 * scenes["skin_depth"], 0.006)
    return np.where(z < scenes["skin_depth"], skin, np.take_along_axis(echo, rows, axis=1))


def _insert_lesion(
    scenes: _Scenes, echo: _Array, interior: _Array, z: _Array, x: _Array
) -> tuple[_Array, _Array, _Mask]:
    """Echo with the lesion in it, excess attenuation (dB per depth), and where the lesion is."""
    stretch = np.sqrt(scenes["aspect"])
    across = (x - scenes["center_x"]) * stretch / scenes["radius"]
    down = (z - scenes["center_z"]) / stretch / scenes["radius"]
    angle, phase = np.arctan2(down, across), scenes["phase"]
    edge = 1 + scenes["lobulation"] * np.cos(3 * angle + phase)
    edge += 0.6 * scenes["lobulation"] * np.cos(5 * angle - 2 * phase)
    spicules = 0.5 * np.cos(11 * angle + 3 * phase + 3 * np.sin(angle)) + interior
    edge += scenes["spiculation"] * spicules
    outside = np.hypot(across, down) / edge - 1
    border = 0.25 * (scenes["margin"] * (1 + 0.3 * interior)).clip(0.02)
    inside = scenes["visibility"] * _sigmoid(-outside / border)
    own = scenes["contrast"] + 2 * interior + scenes["calcification"] * (interior > 2)
    echo = echo + inside * (own + 0.8 * (-5 - echo).clip(-8, 8))
    rim = scenes["visibility"] * _ridge(outside, 0.07)
    echo += scenes["capsule"] * rim * np.sqrt(np.abs(np.sin(angle)))  # specular: faces the beam
    echo += scenes["halo"] * scenes["visibility"] * _ridge(outside - 0.25, 0.2)
    excess = scenes["attenuation"] * inside + 3 * scenes["capsule"] * rim
    no_contact = _ridge(x - scenes["contact_x"], 0.06) * (z > scenes["skin_depth"])
    return echo, excess + scenes["contact_loss"] * no_contact, outside < 0


@lru_cache(maxsize=8)
def _transfer_functions(grid: tuple[int, int], carrier_cycles: float) -> tuple[_Array, _Array]:
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


def _scan(
    scenes: _Scenes,
    scene_rngs: list[np.random.Generator],
    image_rngs: list[np.random.Generator],
    grid: tuple[int, int],
) -> tuple[_Array, _Mask]:
    """Echo (B, Z, X) in decibels after time-gain compensation, and the lesions (B, Z, X)."""
    z, x = _positions(grid[0])[:, None], _positions(grid[1])
    smooth: _Scenes = {}
    for name, knots in _FIELDS.items():
        field = np.stack([rng.standard_normal(knots, np.float32) for rng in scene_rngs])
        tall = np.einsum("zk,bkl->bzl", _spline(knots[0], grid[0]), field)
        smooth[name] = np.einsum("bzl,xl->bzx", tall, _spline(knots[1], grid[1]))
    bumps = np.stack([rng.standard_normal((3, 1, 7), np.float32) for rng in scene_rngs], axis=1)
    waves = np.einsum("wbok,xk->wbox", bumps, _spline(7, grid[1]))
    echo = _tissue(scenes, smooth, waves, z, x)
    echo, excess, lesion = _insert_lesion(scenes, echo, smooth["interior"], z, x)
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


def _area_average(values: _Array, start: float, width: float, num_pixels: int) -> _Array:
    """Mean of (Z, X) over ``num_pixels`` equal parts of the window along Z from ``start``."""
    edges = (start + width * np.arange(num_pixels + 1) / num_pixels) * len(values)
    whole = edges.astype(np.int64)
    total = np.cumsum(values, axis=0) - values
    at_edges = total[whole] + (edges - whole)[:, None] * values[whole]
    return np.asarray(np.diff(at_edges, axis=0) / (edges[1] - edges[0]))


def _acquire(
    rng: np.random.Generator, echo: _Array, lesion: _Mask, size: int, *, marks_chance: float
) -> tuple[npt.NDArray[np.uint8], _Mask]:
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


def _burn_marks(rng: np.random.Generator, gray: _Array, lesion: _Mask) -> None:
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
