"""Decoded, resized images, made once per dataset and size and shared by every process."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.file_cache import load_array
from busi_search.data.file_notes import read_file_notes
from busi_search.data.geometry import WHOLE, Box, Geometry, bring_to_size
from busi_search.data.lesions import find_lesions


def load_images(
    dataset: ImageDataset, size_pixels: int, cache: Path, geometry: Geometry = WHOLE
) -> npt.NDArray[np.uint8]:
    """Return all images of a dataset at one size, from the cache if it holds them.

    The file's name holds the dataset's fingerprint, so changed data never meets an old file.

    Args:
        dataset: the images.
        size_pixels: side S.
        cache: folder of the cache.
        geometry: what of every image is taken, and how it becomes a square.

    Returns:
        (N, S, S) uint8, or (N, 2, S, S) of two regions, memory-mapped and read-only.

    Raises:
        InputError: an image or a mask cannot be read.
        BusiSearchError: the disk has no room for them.
    """
    decoding = read_file_notes(dataset, cache).decoding
    return load_array(
        cache / "images" / f"{_name(dataset, size_pixels, geometry)}{decoding}.npy",
        shape=_shape(dataset, size_pixels, geometry),
        dtype="|u1",
        parts=lambda: (
            bring_to_size(image, size_pixels, geometry, lesion)
            for image, lesion in zip(
                dataset.images(), _lesions(dataset, geometry, cache), strict=True
            )
        ),
    )


def load_masks(
    dataset: ImageDataset, size_pixels: int, cache: Path, geometry: Geometry = WHOLE
) -> npt.NDArray[np.uint8] | None:
    """Return the lesion masks of a dataset at one size, as :func:`load_images` does the images.

    Returns:
        (N, S, S) uint8, or (N, 2, S, S), 255 where all of a pixel is lesion, 0 for an image without
        a mask; None if no image has one.

    Raises:
        InputError: a mask cannot be read.
        BusiSearchError: the disk has no room for them.
    """
    digest = dataset.masks_digest
    if digest is None:
        return None
    shape = _shape(dataset, size_pixels, geometry)
    blank = np.zeros(shape[1:], dtype=np.uint8)
    return load_array(
        cache / "images" / f"{_name(dataset, size_pixels, geometry)}-masks-{digest}.npy",
        shape=shape,
        dtype="|u1",
        parts=lambda: (
            blank if mask is None else bring_to_size(mask, size_pixels, geometry, lesion)
            for mask, lesion in zip(
                dataset.masks(), _lesions(dataset, geometry, cache), strict=True
            )
        ),
    )


def _shape(dataset: ImageDataset, size_pixels: int, geometry: Geometry) -> tuple[int, ...]:
    regions = (geometry.num_regions,) if geometry.num_regions > 1 else ()
    return (len(dataset), *regions, size_pixels, size_pixels)


def _name(dataset: ImageDataset, size_pixels: int, geometry: Geometry) -> str:
    """All that the pixels depend on; whole images are called as they always were."""
    parts = [dataset.fingerprint, str(size_pixels)]
    if geometry.tag:
        parts.append(geometry.tag)
    if geometry.needs_lesion:
        parts.append(str(dataset.lesions_digest))
    return "-".join(parts)


def _lesions(dataset: ImageDataset, geometry: Geometry, cache: Path) -> Iterator[Box | None]:
    if geometry.needs_lesion:
        yield from find_lesions(dataset, cache)
    else:
        yield from [None] * len(dataset)
