"""Decoded, resized images, made once per dataset and size and shared by every process."""

import math
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from busi_search.data.dataset import ImageDataset
from busi_search.data.images import GreyImage, resize_image
from busi_search.home import check_free_space, disk_errors


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
        BusiSearchError: the disk has no room for them.
    """
    target = cache / "images" / f"{dataset.fingerprint}-{size_pixels}.npy"
    shape = (len(dataset), size_pixels, size_pixels)
    return _load(target, shape, lambda: (resize_image(i, size_pixels) for i in dataset.images()))


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
    return _load(
        cache / "images" / name,
        shape,
        lambda: (blank if m is None else resize_image(m, size_pixels) for m in dataset.masks()),
    )


def _load(
    target: Path, shape: tuple[int, int, int], make: Callable[[], Iterable[GreyImage]]
) -> npt.NDArray[np.uint8]:
    """Map a cache file, made first if it is not there."""
    folder = target.parent
    existing = _open(target, shape)
    if existing is not None:
        return existing
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / f"{target.name}.lock"):
        existing = _open(target, shape)
        if existing is not None:
            return existing
        check_free_space(folder, math.prod(shape))
        temporary = target.with_suffix(f".{os.getpid()}.tmp")
        try:
            with disk_errors(folder):
                _write(temporary, make(), shape)
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
    result = _open(target, shape)
    assert result is not None, "the cache file was just written"
    return result


def _write(path: Path, images: Iterable[GreyImage], shape: tuple[int, ...]) -> None:
    """Write image after image: on a full disk this is an error, in a memory map it is a crash."""
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for image in images:
            stream.write(np.ascontiguousarray(image).tobytes())
        stream.flush()
        os.fsync(stream.fileno())


def _open(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    """Map a cache file, or return None where it is missing, truncated or of another shape."""
    try:
        array: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return array if array.shape == shape and array.dtype == np.uint8 else None
