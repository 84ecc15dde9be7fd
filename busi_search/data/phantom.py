"""Simulated breast ultrasound: the embedded default dataset, with its truth known.

A scene (tissue layers, perhaps a lesion) is a map of echo strength and of attenuation. Random
scatterers weighted by it are convolved with pulse and beam, envelope-detected and log-compressed,
as in a B-mode scanner. Lengths are fractions of the image side (about 40 mm), echo strengths are
decibels relative to glandular tissue. Array shapes: B images, S scenes, Z depths, X columns.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.phantom_scanner import acquire, scan
from busi_search.data.phantom_scene import (
    BENIGN,
    CLASS_NAMES,
    MALIGNANT,
    NORMAL,
    Index,
    draw_scenes,
)
from busi_search.errors import InputError

FOLDER_NAME = "Dataset_BUSI_with_GT"

_SAMPLES_PER_CHUNK = 2**19  # at most about 100 MB of temporaries


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
    scenes = draw_scenes(rng, labels[np.unique(groups, return_index=True)[1]])
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
        echoes, lesions = scan(taken, scene_rngs, image_rngs, grid)
        for image, image_rng, echo, lesion in zip(chunk, image_rngs, echoes, lesions, strict=True):
            images[image], masks[image] = acquire(
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


def _plan_images(rng: np.random.Generator, num_images: int) -> tuple[Index, Index]:
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
