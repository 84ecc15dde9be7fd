"""Many images are asked about some at a time, wherever they lie."""

from pathlib import Path

import numpy as np
import torch

from busi_search.models import out_of_distribution
from busi_search.models.judging import BATCH_SIZE, ask_module
from busi_search.models.likeness import compare
from busi_search.models.out_of_distribution import OutOfDistributionCheck, image_statistics


def test_far_is_more_than_unlike() -> None:
    check = OutOfDistributionCheck((0.5, *[0.0] * 4), (0.1,) * 5, tuple(map(tuple, np.eye(5))), 2.0,
                                   kind="brightness")  # fmt: skip
    levels = np.round(np.array([0.5, 0.75, 0.9]) * 255).astype(np.uint8)
    pixels = np.broadcast_to(levels[:, None, None], (3, 28, 28)).copy()
    np.testing.assert_allclose(check.distance(pixels), [0, 2.5, 4], atol=0.05)
    like, different, far, coloured = (
        *compare(check, pixels, [0.0] * 3), compare(check, pixels[:1], [0.5])[0]
    )  # fmt: skip
    assert [found.unlike for found in (like, different, far, coloured)] == [False, *[True] * 3]
    assert [found.level for found in (like, different, far)] == ["like", "different", "far"]
    assert coloured.level == "far"
    assert "another hospital" in different.text
    assert "may be no ultrasound" in far.text
    assert "may be no ultrasound" not in different.text
    assert compare(None, pixels[:1], [0.0])[0].level is None


def test_statistics_do_not_depend_on_how_many_images_there_are() -> None:
    number = out_of_distribution._IMAGES_PER_BLOCK + 3
    images = np.random.default_rng(0).integers(0, 256, (number, 32, 32), dtype=np.uint8)
    found = image_statistics(images)
    assert found.shape == (number, 10)
    for index in (0, number - 4, number - 3, number - 1):
        np.testing.assert_array_equal(found[index], image_statistics(images[index : index + 1])[0])


def test_a_model_is_given_mapped_images_batch_by_batch(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (150, 8, 8), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    sizes = []

    class Mean(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            sizes.append(len(pixels))
            assert pixels.dtype == torch.float32
            return pixels.mean(dim=(1, 2, 3))[:, None]

    found = ask_module(Mean(), mapped)
    np.testing.assert_allclose(found[:, 0], images.mean(axis=(1, 2)), rtol=1e-5)
    assert sizes == [BATCH_SIZE, BATCH_SIZE, 150 - 2 * BATCH_SIZE]
