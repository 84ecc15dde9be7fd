"""Decoded, resized images, made once per dataset and size and shared by every process."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.file_cache import load_array
from busi_search.data.file_notes import read_file_notes
from busi_search.data.images import resize_image


def load_images(dataset: ImageDataset, size_pixels: int, cache: Path) -> npt.NDArray[np.uint8]:
    """Return all images of a dataset at one size, from the cache if it holds them.

    The file's name holds the dataset's fingerprint, so changed data never meets an old file.

    Args:
        dataset: the images.
        size_pixels: side S.
        cache: folder of the cache.

    Returns:
        (N, S, S) uint8, memory-mapped and read-only.

    Raises:
        InputError: an image cannot be read.
        BusiSearchError: the disk has no room for them.
    """
    decoding = read_file_notes(dataset, cache).decoding
    target = cache / "images" / f"{dataset.fingerprint}-{size_pixels}{decoding}.npy"
    shape = (len(dataset), size_pixels, size_pixels)
    return load_array(
        target,
        shape=shape,
        dtype="|u1",
        parts=lambda: (resize_image(image, size_pixels) for image in dataset.images()),
    )


def load_masks(
    dataset: ImageDataset, size_pixels: int, cache: Path
) -> npt.NDArray[np.uint8] | None:
    """Return the lesion masks of a dataset at one size, as :func:`load_images` does the images.

    Returns:
        (N, S, S) uint8, 255 where all of a pixel is lesion, 0 for an image without a mask; None if
        no image has one.

    Raises:
        InputError: a mask cannot be read.
        BusiSearchError: the disk has no room for them.
    """
    digest = dataset.masks_digest
    if digest is None:
        return None
    name = f"{dataset.fingerprint}-{size_pixels}-masks-{digest}.npy"
    shape = (len(dataset), size_pixels, size_pixels)
    blank = np.zeros(shape[1:], dtype=np.uint8)
    return load_array(
        cache / "images" / name,
        shape=shape,
        dtype="|u1",
        parts=lambda: (
            blank if m is None else resize_image(m, size_pixels) for m in dataset.masks()
        ),
    )
