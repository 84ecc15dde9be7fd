"""Decoded, resized images, made once per dataset and size and shared by every process."""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from busi_search.data.dataset import ImageDataset
from busi_search.data.images import resize_image


def load_images(dataset: ImageDataset, size_pixels: int, cache: Path) -> npt.NDArray[np.uint8]:
    """Return all images of a dataset at one size, from the cache if it holds them.

    The first process to ask builds the file while others wait; the file appears whole or not at
    all, and its name holds the dataset's fingerprint, so changed data never meets an old file.

    Args:
        dataset: the images.
        size_pixels: side S.
        cache: folder of the cache.

    Returns:
        (N, S, S) uint8, memory-mapped and read-only.

    Raises:
        InputError: an image cannot be read.
    """
    folder = cache / "images"
    target = folder / f"{dataset.fingerprint}-{size_pixels}.npy"
    shape = (len(dataset), size_pixels, size_pixels)
    existing = _open(target, shape)
    if existing is not None:
        return existing
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{target.name}.lock"):
        existing = _open(target, shape)
        if existing is not None:
            return existing
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            for index, image in enumerate(dataset.images()):
                array[index] = resize_image(image, size_pixels)
            array.flush()
            del array
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    result = _open(target, shape)
    assert result is not None, "the cache file was just written"
    return result


def _open(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """Map a cache file, or return None where it is missing, truncated or of another shape."""
    try:
        array: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None
