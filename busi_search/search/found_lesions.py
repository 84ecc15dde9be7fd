"""Lesions that networks find: learned fold by fold from the masks of the training images.

An image's region is always cut out by the network of the fold in which it is validated, which has
seen neither its mask nor its patient's. The networks of other folds, which cut out the training
images, may have seen masks of validation images; they never see a label.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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


@dataclass(frozen=True)
class FoundLesions:
    """What the networks of a study's folds find, learned once and kept in the cache.

    Attributes:
        development: N images.
        folds: divisions of ``range(N)``; no image is validated in two.
        seed: of the study.
        cache: folder of the cache.
        device: PyTorch's name of the device on which they learn.
    """

    development: ImageDataset
    folds: Sequence[Fold]
    seed: int
    cache: Path
    device: str = "cpu"

    def check_masks(self, geometry: Geometry) -> None:
        """Make sure that there are masks to learn from.

        Raises:
            InputError: a fold has too few, or a mask cannot be read.
        """
        with_mask = self._with_mask(geometry)
        fewest = min(int(with_mask[fold.train].sum()) for fold in self.folds)
        if fewest < FEWEST_MASKS:
            raise InputError(
                f'lesions = "found" learns from lesion masks, and the training part of a fold of '
                f"{self.development.name} has {fewest} of them; it needs {FEWEST_MASKS}. Set "
                'lesions = "given" and mark the lesions, or region = "image".'
            )

    def learned(self, geometry: Geometry) -> bool:
        """Whether the cache has the finder of every fold."""
        return all(file.exists() for file in self._files(geometry))

    def finders(self, geometry: Geometry) -> list[LesionFinder]:
        """Return the finder of every fold, learned from the masks of its training images.

        Args:
            geometry: how an image becomes a square.

        Returns:
            The finders, on the CPU in evaluation mode.

        Raises:
            InputError: an image or a mask cannot be read.
            BusiSearchError: the disk has no room.
        """
        files, found = self._files(geometry), dict[int, LesionFinder]()
        # Processes that ask at the same time begin with different folds, and share the work.
        for turn in range(len(files)):
            index = (os.getpid() + turn) % len(files)
            with counted_part(LEARNING, turn, len(files)):
                found[index] = build_once(
                    files[index],
                    partial(_read, files[index]),
                    partial(self._learn, index, geometry),
                    make_room=lambda folder: check_free_space(folder, 32 * 2**20),
                )
        return [found[index] for index in range(len(files))]

    def regions(self, size_pixels: int, geometry: Geometry) -> npt.NDArray[np.uint8]:
        """Return every image's regions, cut out by the fold that validates it.

        Images that none validates, as an audit keeps them, are cut out as the registered model
        does: by all folds, whose maps are averaged.

        Args:
            size_pixels: side S.
            geometry: what is cut out.

        Returns:
            (N, S, S) uint8, or (N, 2, S, S) of the whole and the lesion.

        Raises:
            InputError: an image or a mask cannot be read.
            BusiSearchError: the disk has no room.
        """
        source = load_images(
            self.development, SOURCE_RATIO * size_pixels, self.cache, _plain(geometry)
        )
        regions = (geometry.num_regions,) if geometry.num_regions > 1 else ()
        name = f"{self._digest(geometry)}-{size_pixels}-{geometry.tag}.npy"
        target = self.cache / "images" / name
        if not target.exists():
            # Before one process alone makes the regions: several share the learning.
            self.finders(geometry)
        return load_array(
            target,
            shape=(len(self.development), *regions, size_pixels, size_pixels),
            dtype="|u1",
            parts=partial(self._cut, size_pixels, geometry, source),
        )

    def _cut(
        self, size_pixels: int, geometry: Geometry, source: npt.NDArray[np.uint8]
    ) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the regions image after image."""
        finders = self.finders(geometry)
        asked = [
            ([finder], fold.validation) for finder, fold in zip(finders, self.folds, strict=True)
        ]
        in_none = np.ones(len(self.development), dtype=bool)
        in_none[np.concatenate([fold.validation for fold in self.folds])] = False
        asked.append((finders, np.flatnonzero(in_none)))
        made: dict[int, npt.NDArray[np.uint8]] = {}
        for chosen, rows in asked:
            crop = crop_of(chosen, size_pixels=size_pixels, geometry=geometry)
            for first in range(0, len(rows), _BATCH):
                some = rows[first : first + _BATCH]
                pixels = torch.from_numpy(np.array(source[some])).float().unsqueeze(1)
                with torch.inference_mode():
                    cut = crop(pixels).round().to(torch.uint8).numpy()
                regions = cut if geometry.num_regions > 1 else cut[:, 0]
                made.update(zip(some.tolist(), regions, strict=True))
        yield from (made[index] for index in range(len(self.development)))

    def _learn(self, index: int, geometry: Geometry, path: Path) -> None:
        """Train a fold's finder, and write its weights."""
        train_on_one_core()
        train = np.sort(self.folds[index].train)
        rows = train[self._with_mask(geometry)[train]]
        images = load_images(self.development, FINDER_SIZE_PIXELS, self.cache, _plain(geometry))
        finder = train_finder(
            images[rows],
            self._masks(geometry)[rows],
            seed=derive_seed(self.seed, -1, index, "lesion finder"),
            num_steps=NUM_STEPS,
            device=self.device,
        )
        save_file({key: value.contiguous() for key, value in finder.state_dict().items()}, path)

    def _masks(self, geometry: Geometry) -> npt.NDArray[np.uint8]:
        """(N, S, S) masks as a finder learns them; read once, then kept in the cache."""
        masks = load_masks(self.development, FINDER_SIZE_PIXELS, self.cache, _plain(geometry))
        return np.zeros((len(self.development), 1, 1), np.uint8) if masks is None else masks

    def _with_mask(self, geometry: Geometry) -> npt.NDArray[np.bool_]:
        """(N,) whether an image has a lesion in its mask.

        Images without one are left out, even where that says that they have none: which images
        these are can tell their class.
        """
        return np.asarray(self._masks(geometry).any(axis=(1, 2)), dtype=np.bool_)

    def _files(self, geometry: Geometry) -> list[Path]:
        """Where every fold's finder is kept."""
        folder, key = self.cache / "finders", self._digest(geometry)
        return [folder / f"{key}-{index}.safetensors" for index in range(len(self.folds))]

    def _digest(self, geometry: Geometry) -> str:
        """Hash all that the finders depend on."""
        plain = _plain(geometry).tag
        found = hashlib.sha256(f"{_FORMAT} {NUM_STEPS} {self.seed} {plain} ".encode())
        found.update(f"{self.development.fingerprint} {self.development.masks_digest}".encode())
        for fold in self.folds:
            found.update(np.ascontiguousarray(fold.train, dtype=np.int64).tobytes())
            found.update(np.ascontiguousarray(fold.validation, dtype=np.int64).tobytes())
        return found.hexdigest()[:32]


def crop_of(finders: Sequence[LesionFinder], *, size_pixels: int, geometry: Geometry) -> LesionCrop:
    """Return the module that cuts regions of S pixels a side out of images of 2 S."""
    return LesionCrop(
        finders,
        size_pixels=size_pixels,
        region=geometry.region,
        margin=geometry.margin,
        keeps_aspect=geometry.aspect != "squash",
    ).eval()


def _read(path: Path) -> LesionFinder | None:
    """Return a finder as it was learned, or None where its file is missing or damaged."""
    try:
        state = load_file(path)
        finder = LesionFinder()
        finder.load_state_dict(state)
    except (OSError, SafetensorError, RuntimeError):
        return None
    return finder.eval()


def _plain(geometry: Geometry) -> Geometry:
    """Whole images of the same shape."""
    return Geometry(aspect=geometry.aspect, crop=geometry.crop)
