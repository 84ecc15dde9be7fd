"""Outputs of frozen stages, computed once and shared by folds, trials and processes."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from busi_search.data.file_cache import load_array
from busi_search.data.progress import counted
from busi_search.errors import BusiSearchError
from busi_search.training.classifier import ImageClassifier

Features = npt.NDArray[np.float16]

# Older files go when the folder grows beyond this.
MAX_CACHE_BYTES = 8 * 2**30
# What a progress line calls it.
STORING = "storing features"
_BATCH = 64
_FORMAT = 2


def load_features(
    model: ImageClassifier,
    images: Tensor,
    *,
    depth: int,
    num_views: int,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    settings: dict[str, object],
    folder: Path | None,
) -> Features:
    """Return what the first ``depth`` stages make of every image, from the cache where it is there.

    The views are drawn from a seed made of the key, so that every process, fold and trial that
    asks for the same thing gets the same thing. The file is keyed by the weights themselves.

    Args:
        model: the network; its first ``depth`` stages are frozen.
        images: (N, K, S, S) uint8 grey pixels of all development images, in K regions.
        depth: number of frozen stages, at least 1.
        num_views: augmented views of every image.
        augment: of (B, K, S, S) float pixels and a generator.
        settings: everything else that the result depends on, by name.
        folder: of the cache; None: nothing is kept.

    Returns:
        (num_views + V, N, …) float16, of K regions (num_views + V, N, K, …): the augmented views,
        then the model's V test-time views, of which the first is the image as it is.

    Raises:
        BusiSearchError: the disk has no room for it.
    """
    digest = _digest(model, images, depth, num_views, settings)
    parts = partial(_compute, model, images, depth, num_views, augment, int(digest[:15], 16))
    shape = _shape(model, images, depth, num_views)
    if folder is None:
        return np.concatenate(list(parts())).reshape(shape)
    target = folder / f"{digest[:32]}.npy"
    num_parts = shape[0] * math.ceil(len(images) / _BATCH)
    found = load_array(
        target,
        shape=shape,
        dtype="<f2",
        parts=lambda: counted(parts(), STORING, num_parts),
        make_room=make_room,
    )
    with suppress(OSError):
        os.utime(target)  # what was used last is deleted last
    return found


def _digest(
    model: ImageClassifier, images: Tensor, depth: int, num_views: int, settings: dict[str, object]
) -> str:
    """Hash the frozen weights, the pixels and the settings."""
    seen = hashlib.sha256()
    for stage in list(model.stages)[:depth]:
        for tensor in stage.state_dict().values():
            seen.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        seen.update(part.cpu().numpy().tobytes())
    values = {
        **settings,
        "format": _FORMAT,
        "depth": depth,
        "views": num_views,
        "flip": model.test_time_flip,
        "shift": model.test_time_shift,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "size": list(images.shape),
    }
    if model.readout is not None:
        values |= {"pooling": model.readout.pooling, "layers": model.readout.num_layers}
    seen.update(json.dumps(values, sort_keys=True).encode())
    return seen.hexdigest()


def _frozen(model: ImageClassifier, pixels: Tensor, depth: int) -> Tensor:
    return pack(model.advance([model.normalise(pixels)], stop=depth))


def pack(state: list[Tensor]) -> Tensor:
    """Return what frozen stages give as one tensor: the only one, or (N, numbers) of all."""
    return state[0] if len(state) == 1 else torch.cat([x.flatten(1) for x in state], dim=1)


@torch.inference_mode()
def state_shapes(
    model: ImageClassifier, size_pixels: int, *, depth: int
) -> tuple[tuple[int, ...], ...]:
    """Return the shapes, without N, of the tensors that ``depth`` frozen stages give."""
    model.eval()
    shape = (1, model.num_regions, size_pixels, size_pixels)
    pixels = torch.zeros(shape, device=model.mean.device)
    return tuple(tuple(x.shape[1:]) for x in model.advance([model.normalise(pixels)], stop=depth))


@torch.inference_mode()
def _shape(model: ImageClassifier, images: Tensor, depth: int, num_views: int) -> tuple[int, ...]:
    model.eval()
    one = _frozen(model, images[:1].to(model.mean.device).to(torch.float32), depth)
    regions = (model.num_regions,) if model.num_regions > 1 else ()
    return (num_views + model.num_test_views, len(images), *regions, *one.shape[1:])


def _compute(
    model: ImageClassifier,
    images: Tensor,
    depth: int,
    num_views: int,
    augment: Callable[[Tensor, torch.Generator], Tensor],
    seed: int,
) -> Iterator[Features]:
    """Yield view after view, some images at a time."""
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    largest = float(np.finfo(np.float16).max)
    for view in range(num_views + model.num_test_views):
        for start in range(0, len(images), _BATCH):
            pixels = images[start : start + _BATCH].to(model.mean.device).to(torch.float32)
            if view < num_views:
                pixels = augment(pixels, generator)
            else:
                pixels = model.test_views(pixels)[view - num_views]
            with torch.inference_mode():
                rows = _frozen(model, pixels, depth).clamp(-largest, largest)
            yield rows.to(torch.float16).cpu().numpy()


def make_room(folder: Path, num_bytes: int) -> None:
    """Delete what was not used for longest; a process that has a file mapped keeps it."""
    files = sorted(folder.glob("*.npy"), key=lambda path: path.stat().st_mtime)
    total = sum(path.stat().st_size for path in files) + num_bytes
    for path in files:
        if total <= MAX_CACHE_BYTES and shutil.disk_usage(folder).free > 2 * num_bytes:
            return
        total -= path.stat().st_size
        path.unlink(missing_ok=True)
    if shutil.disk_usage(folder).free < num_bytes:
        raise BusiSearchError(
            f"The cache of frozen features needs {num_bytes / 2**20:.0f} MiB in {folder}, and the "
            "disk has less; free some, or set augmentation_views = 0."
        )
