"""Features of a frozen network, of every stage and pooling at once, computed once and shared.

The linear head that is solved for is cheap, and what it may see is chosen by the hundred. So the
maps of every stage are pooled in every way that needs no learning while they are there; a trial
takes the columns it wants.
"""

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from busi_search.data.file_cache import load_array
from busi_search.data.progress import counted_part
from busi_search.training.classifier import ImageClassifier
from busi_search.training.feature_cache import STORING, make_room
from busi_search.training.readout import FIXED_POOLINGS, pooled_features

Features = npt.NDArray[np.float32]
Augment = Callable[[Tensor, torch.Generator], Tensor]

# Images of one file: several processes that need the same features share the work file by file.
IMAGES_PER_FILE = 128
# What a network makes of 8 images stays in a processor's cache: 64 at once take 1.8 times as long.
_BATCH = 8
_FORMAT = 1


@dataclass(frozen=True)
class View:
    """One way of looking at every image.

    Attributes:
        name: part of the key; two views of one name are the same.
        make: of (B, 1, S, S) float pixels, of one region, and a generator.
    """

    name: str
    make: Augment


def test_time_views(model: ImageClassifier) -> list[View]:
    """Return the views that the network predicts from; the first is the image as it is."""
    shifts = model.num_test_views // (2 if model.test_time_flip else 1)

    def view(index: int) -> View:
        place, mirrored = index % shifts, index >= shifts
        moved = f"moved {model.test_time_shift} to {place}" if place else "as it is"
        return View(
            f"{moved}{', mirrored' if mirrored else ''}",
            lambda pixels, _generator: model.test_views(pixels)[index],
        )

    return [view(index) for index in range(model.num_test_views)]


def augmented_views(augment: Augment, count: int, settings: dict[str, object]) -> list[View]:
    """Return ``count`` views altered at random; ``settings`` says all that the augmentation is."""
    known = json.dumps(settings, sort_keys=True)
    return [View(f"augmented {index}: {known}", augment) for index in range(count)]


def load_bank(
    model: ImageClassifier,
    images: Tensor,
    views: Sequence[View],
    *,
    folder: Path | None,
    begin_at: int = 0,
) -> Features:
    """Return the features that the network's head sees, of every image in every view.

    What is kept holds all stages and poolings; see :func:`bank_columns`. A file is keyed by the
    weights, the pixels of its images and the view. Files are made in turn from one that depends on
    ``begin_at``: processes that need the same ones at the same time meet halfway.

    Args:
        model: the network, all of it frozen.
        images: (N, K, S, S) uint8 grey pixels, in K regions; each is kept on its own.
        views: the views wanted.
        folder: of the cache; None: nothing is kept.
        begin_at: any number, such as that of a trial.

    Returns:
        (V, N, K·F) float32.

    Raises:
        BusiSearchError: the disk has no room for it.
    """
    model.eval()
    layout = _layout(model, images.shape[-1])
    width = sum(part.width for part in layout)
    wanted = bank_columns(model, layout)
    starts = range(0, len(images), IMAGES_PER_FILE)
    regions = range(images.shape[1])
    places = list(itertools.product(range(len(views)), regions, starts))
    stages = _stages_digest(model)
    found = np.empty((len(views), len(images), len(regions), len(wanted)), dtype=np.float32)
    # The golden ratio spreads the beginnings of successive trials evenly.
    first = int(len(places) * (begin_at * 0.6180339887 % 1))
    for done, (v, region, start) in enumerate([*places[first:], *places[:first]]):
        part = images[start : start + IMAGES_PER_FILE, region : region + 1]
        digest = _digest(model, stages, part, views[v])
        rows = partial(_compute, model, part, views[v], int(digest[:15], 16))
        if folder is None:
            content = np.concatenate(list(rows()))
        else:
            target = folder / f"bank-{digest[:32]}.npy"
            shape = (len(part), width)
            slow = not target.exists()
            with counted_part(STORING, done, len(places)) if slow else nullcontext():
                content = load_array(
                    target, shape=shape, dtype="<f4", parts=rows, make_room=make_room
                )
            with suppress(OSError):
                os.utime(target)  # what was used last is deleted last
        found[v, start : start + len(part), region] = content[:, wanted]
    return found.reshape(len(views), len(images), -1)


@dataclass(frozen=True)
class _Part:
    stage: int
    pooling: str
    width: int


def bank_columns(model: ImageClassifier, layout: Sequence[_Part]) -> npt.NDArray[np.int64]:
    """Return the columns that the network's head sees, in its order."""
    stages = sorted({part.stage for part in layout})
    layers, pooling = 1, "avg"
    if model.readout is not None:
        layers, pooling = model.readout.num_layers, model.readout.pooling
    assert pooling != "attention", "it learns: there is nothing to keep"
    kinds = ("avg", "max") if pooling == "avgmax" else (pooling,)
    begins = np.cumsum([0, *(part.width for part in layout)])
    of = {(part.stage, part.pooling): i for i, part in enumerate(layout)}
    chosen = [of[stage, kind] for stage in stages[-layers:] for kind in kinds]
    return np.concatenate([np.arange(begins[i], begins[i + 1]) for i in chosen])


def _pooled(model: ImageClassifier, x: Tensor) -> Iterator[tuple[int, str, Tensor]]:
    """Yield stage, pooling and (N, F) features, of every stage and fixed pooling."""
    stages = list(model.stages)
    if model.pool_at is None:
        yield len(stages) - 1, "avg", model.features(x)
        return
    for index, stage in enumerate(stages):
        last = model.last_stage() if index == len(stages) - 1 else None
        x = stage(x) if last is None else last.maps(x)
        maps = x.permute(0, 3, 1, 2) if last is None and model.maps_channels_last else x
        for pooling in FIXED_POOLINGS:
            yield index, pooling, pooled_features(maps, pooling, last)


@torch.inference_mode()
def _layout(model: ImageClassifier, size_pixels: int) -> list[_Part]:
    pixels = torch.zeros(1, 1, size_pixels, size_pixels, device=model.mean.device)
    parts = _pooled(model, model.normalise(pixels))
    return [_Part(stage, pooling, rows.shape[1]) for stage, pooling, rows in parts]


def _stages_digest(model: ImageClassifier) -> str:
    seen = hashlib.sha256()
    for tensor in model.stages.state_dict().values():
        seen.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return seen.hexdigest()


def _digest(model: ImageClassifier, stages: str, images: Tensor, view: View) -> str:
    """Hash the weights, the pixels and the view."""
    seen = hashlib.sha256(images.cpu().numpy().tobytes())
    values = {
        "format": _FORMAT,
        "stages": stages,
        "view": view.name,
        "mean": model.mean.flatten().tolist(),
        "std": model.std.flatten().tolist(),
        "size": list(images.shape),
    }
    seen.update(json.dumps(values, sort_keys=True).encode())
    return seen.hexdigest()


def _compute(model: ImageClassifier, images: Tensor, view: View, seed: int) -> Iterator[Features]:
    """Yield the features of some images at a time."""
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(images), _BATCH):
        pixels = images[start : start + _BATCH].to(model.mean.device).to(torch.float32)
        with torch.inference_mode():
            x = model.normalise(view.make(pixels, generator))
            rows = torch.cat([rows for _, _, rows in _pooled(model, x)], dim=1)
        yield rows.float().cpu().numpy()
