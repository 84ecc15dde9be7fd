"""Lesions that networks find: learned fold by fold from the masks of the training images.

An image's region is always cut out by the network of the fold in which it is validated, which has
seen neither its mask nor its patient's. The networks of other folds, which cut out the training
images, may have seen masks of validation images; they never see a label.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from busi_search.data.dataset import ImageDataset
from busi_search.data.file_cache import build_once, load_array
from busi_search.data.folds import Fold
from busi_search.data.geometry import Geometry
from busi_search.data.image_cache import load_images, load_masks
from busi_search.data.progress import counted_part
from busi_search.errors import InputError
from busi_search.files import check_free_space
from busi_search.seeding import derive_seed
from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.lesion_finder import (
    FINDER_SIZE_PIXELS,
    SOURCE_RATIO,
    LesionCrop,
    LesionFinder,
    train_finder,
)

# What a progress line calls it.
LEARNING = "learning where lesions are"
# Images with a lesion in a mask that the training part of every fold must have.
FEWEST_MASKS = 40
# Gradient steps of a finder.
NUM_STEPS = 250
_FORMAT = 1
_BATCH = 16


def check_masks(development: ImageDataset, folds: Sequence[Fold]) -> None:
    """Make sure that there are masks to learn from.

    Raises:
        InputError: a fold has too few.
    """
    with_mask = _with_mask(development)
    fewest = min(int(np.isin(fold.train, with_mask).sum()) for fold in folds)
    if fewest < FEWEST_MASKS:
        raise InputError(
            f'lesions = "found" learns from lesion masks, and the training part of a fold of '
            f"{development.name} has {fewest} of them; it needs {FEWEST_MASKS}. Set "
            'lesions = "given" and mark the lesions, or region = "image".'
        )


def has_finders(
    development: ImageDataset,
    folds: Sequence[Fold],
    *,
    seed: int,
    geometry: Geometry,
    cache: Path,
) -> bool:
    """Whether the cache has the finder of every fold, see :func:`fold_finders`."""
    key = _digest(development, folds, seed, geometry)
    return all(_file(cache, key, index).exists() for index in range(len(folds)))


def crop_of(finders: Sequence[LesionFinder], *, size_pixels: int, geometry: Geometry) -> LesionCrop:
    """Return the module that cuts regions of S pixels a side out of images of 2 S."""
    return LesionCrop(
        finders,
        size_pixels=size_pixels,
        region=geometry.region,
        margin=geometry.margin,
        keeps_aspect=geometry.aspect != "squash",
    ).eval()


def load_found_regions(
    development: ImageDataset,
    folds: Sequence[Fold],
    *,
    seed: int,
    size_pixels: int,
    geometry: Geometry,
    cache: Path,
    device: str = "cpu",
) -> npt.NDArray[np.uint8]:
    """Return every development image's regions, cut out by the fold that validates it.

    Args:
        development: N images.
        folds: divisions of ``range(N)``; every image is validated in one.
        seed: of the study.
        size_pixels: side S.
        geometry: what is cut out.
        cache: folder of the cache; finders and regions are made once and kept there.
        device: PyTorch's name of the device on which finders learn.

    Returns:
        (N, S, S) uint8, or (N, 2, S, S) of the whole and the lesion.

    Raises:
        InputError: an image or a mask cannot be read, or there are too few masks.
        BusiSearchError: the disk has no room.
    """
    source = load_images(development, SOURCE_RATIO * size_pixels, cache, _plain(geometry))
    regions = (geometry.num_regions,) if geometry.num_regions > 1 else ()
    key = _digest(development, folds, seed, geometry)
    target = cache / "images" / f"{key}-{size_pixels}-{geometry.tag}.npy"
    if not target.exists():
        # Before one process alone makes the regions: several share the learning.
        fold_finders(development, folds, seed=seed, geometry=geometry, cache=cache, device=device)
    return load_array(
        target,
        shape=(len(development), *regions, size_pixels, size_pixels),
        dtype="|u1",
        parts=partial(
            _regions, development, folds, seed, size_pixels, geometry, cache, device, source
        ),
    )


def fold_finders(
    development: ImageDataset,
    folds: Sequence[Fold],
    *,
    seed: int,
    geometry: Geometry,
    cache: Path,
    device: str = "cpu",
) -> list[LesionFinder]:
    """Return the finder of every fold, learned once from the masks of its training images.

    Args:
        development: N images.
        folds: divisions of ``range(N)``.
        seed: of the study.
        geometry: how an image becomes a square.
        cache: folder in which finders are kept.
        device: PyTorch's name of the device on which they learn.

    Returns:
        The finders, on the CPU in evaluation mode.

    Raises:
        InputError: an image or a mask cannot be read.
        BusiSearchError: the disk has no room.
    """
    key = _digest(development, folds, seed, geometry)
    found: dict[int, LesionFinder] = {}
    # Processes that ask at the same time begin with different folds, and share the work.
    for turn in range(len(folds)):
        index = (os.getpid() + turn) % len(folds)
        target = _file(cache, key, index)
        with counted_part(LEARNING, turn, len(folds)):
            found[index] = build_once(
                target,
                partial(_read, target),
                partial(_learn, development, folds[index], index, seed, geometry, cache, device),
                make_room=lambda folder: check_free_space(folder, 32 * 2**20),
            )
    return [found[index] for index in range(len(folds))]


def _regions(
    development: ImageDataset,
    folds: Sequence[Fold],
    seed: int,
    size_pixels: int,
    geometry: Geometry,
    cache: Path,
    device: str,
    source: npt.NDArray[np.uint8],
) -> Iterator[npt.NDArray[np.uint8]]:
    """Yield the regions image after image."""
    finders = fold_finders(
        development, folds, seed=seed, geometry=geometry, cache=cache, device=device
    )
    made: dict[int, npt.NDArray[np.uint8]] = {}
    for finder, fold in zip(finders, folds, strict=True):
        crop = crop_of([finder], size_pixels=size_pixels, geometry=geometry)
        rows = fold.validation.tolist()
        for first in range(0, len(rows), _BATCH):
            some = rows[first : first + _BATCH]
            pixels = torch.from_numpy(np.array(source[some])).float().unsqueeze(1)
            with torch.inference_mode():
                cut = crop(pixels).round().to(torch.uint8).numpy()
            made.update(zip(some, cut if geometry.num_regions > 1 else cut[:, 0], strict=True))
    yield from (made[index] for index in range(len(development)))


def _learn(
    development: ImageDataset,
    fold: Fold,
    index: int,
    seed: int,
    geometry: Geometry,
    cache: Path,
    device: str,
    path: Path,
) -> None:
    """Train a fold's finder, and write its weights."""
    train_on_one_core()
    rows = np.intersect1d(fold.train, _with_mask(development))
    plain = _plain(geometry)
    masks = load_masks(development, FINDER_SIZE_PIXELS, cache, plain)
    assert masks is not None, "checked when the study was prepared"
    finder = train_finder(
        load_images(development, FINDER_SIZE_PIXELS, cache, plain)[rows],
        masks[rows],
        seed=derive_seed(seed, -1, index, "lesion finder"),
        num_steps=NUM_STEPS,
        device=device,
    )
    save_file({key: value.contiguous() for key, value in finder.state_dict().items()}, path)


def _read(path: Path) -> LesionFinder | None:
    """Return a finder as it was learned, or None where its file is missing or damaged."""
    try:
        state = load_file(path)
        finder = LesionFinder()
        finder.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError):
        return None
    return finder.eval()


def _with_mask(development: ImageDataset) -> npt.NDArray[np.int64]:
    """Indices of the images with a lesion in their mask.

    Images without one are left out, even where that says that they have none: which images these
    are can tell their class.
    """
    if development.masks_digest is None:
        return np.zeros(0, dtype=np.int64)
    return np.asarray(
        [i for i, mask in enumerate(development.masks()) if mask is not None and mask.any()],
        dtype=np.int64,
    )


def _file(cache: Path, key: str, index: int) -> Path:
    return cache / "finders" / f"{key}-{index}.safetensors"


def _plain(geometry: Geometry) -> Geometry:
    """Whole images of the same shape."""
    return Geometry(aspect=geometry.aspect, crop=geometry.crop)


def _digest(development: ImageDataset, folds: Sequence[Fold], seed: int, geometry: Geometry) -> str:
    """Hash all that the finders depend on."""
    found = hashlib.sha256(f"{_FORMAT} {NUM_STEPS} {seed} {_plain(geometry).tag} ".encode())
    found.update(f"{development.fingerprint} {development.masks_digest}".encode())
    for fold in folds:
        found.update(np.ascontiguousarray(fold.train, dtype=np.int64).tobytes())
        found.update(np.ascontiguousarray(fold.validation, dtype=np.int64).tobytes())
    return found.hexdigest()[:32]
