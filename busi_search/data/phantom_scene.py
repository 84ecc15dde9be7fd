"""What a simulated image shows: tissue layers, perhaps a lesion, with their echo and attenuation.

Units and array shapes are those of :mod:`busi_search.data.phantom`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

CLASS_NAMES = ("benign", "malignant", "normal")
BENIGN, MALIGNANT, NORMAL = range(3)

Array = npt.NDArray[np.floating]
Index = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Scenes = dict[str, Array]  # what draw_scenes draws, by name: (S,), or (B, 1, 1) for a chunk


def _sigmoid(values: Array) -> Array:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * values))


def _draw_suspicion(rng: np.random.Generator, kinds: Index) -> Array:
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


def draw_scenes(rng: np.random.Generator, kinds: Index) -> Scenes:
    """Draw layers, position and signs; each sign follows the suspicion with noise of its own."""
    count = len(kinds)
    suspicion = _draw_suspicion(rng, kinds)

    def sign(harmless: float, suspicious: float) -> Array:
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


def positions(num_samples: int) -> Array:
    """Middles (num_samples,) of equal parts of a side, as shares of it."""
    return np.asarray((np.arange(num_samples) + 0.5) / num_samples, np.float32)


def _ridge(field: Array, width: float) -> Array:
    """1 where a smooth field changes sign, falling to 0 beside it: thin curved sheets."""
    return np.asarray(np.exp(-((field / width) ** 2)))


def tissue(scenes: Scenes, smooth: Scenes, waves: Array, z: Array, x: Array) -> Array:
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


def insert_lesion(
    scenes: Scenes, echo: Array, interior: Array, z: Array, x: Array
) -> tuple[Array, Array, Mask]:
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
