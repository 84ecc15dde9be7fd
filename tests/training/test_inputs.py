"""Where pixels come from while a network is trained."""

from pathlib import Path

import numpy as np
import pytest
import torch

from busi_search.training.inputs import PixelInputs, place_pixels


def test_memory_mapped_images_are_read_where_they_are(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (50, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    pixels = place_pixels(mapped, "cpu")
    # The same memory, not a copy of it.
    assert pixels.data_ptr() == mapped.ctypes.data
    inputs = PixelInputs(pixels, lambda x, y, _: (x, y), "cpu")
    batch, _ = inputs.batch(torch.tensor([7, 3]), torch.zeros(2, 2), torch.Generator())
    np.testing.assert_array_equal(batch[:, 0].numpy(), images[[7, 3]].astype(np.float32))


@pytest.mark.parametrize(("free_bytes", "moves"), [(10**6, True), (10**3, False)])
def test_a_gpu_holds_images_that_take_little_of_it(
    monkeypatch: pytest.MonkeyPatch, free_bytes: int, moves: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free_bytes, 10**9))
    images = np.zeros((50, 8, 8), dtype=np.uint8)
    # "meta" is a device that is always there and is not the CPU.
    assert (place_pixels(images, "meta").device.type == "meta") is moves
