"""Where screens are alike: the short way must count as the plain one does."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch.nn import functional

from busi_search.data.registration import look, see
from busi_search.data.screen_frames import find_frames


def _common(thumbs: npt.NDArray[np.uint8], share: float) -> npt.NDArray[np.bool_]:
    """Pixels for which enough images lie within 2 of one grey above 3, counted grey by grey."""
    counts = np.array([
        (np.abs(thumbs.astype(int) - grey) <= 2).sum(axis=0) for grey in range(256)
    ])  # fmt: skip
    enough = counts.max(axis=0) >= max(3, share * len(thumbs))
    common: npt.NDArray[np.bool_] = enough & (counts.argmax(axis=0) > 3)
    return common


@pytest.mark.parametrize(("num_images", "share"), [(3, 1.0), (5, 0.8), (10, 0.75), (9, 1 / 3)])
def test_a_frame_is_what_enough_images_share(num_images: int, share: float) -> None:
    random = np.random.default_rng(num_images)
    thumbs = random.integers(0, 256, (num_images, 12, 12), dtype=np.uint8)
    framed = round(share * num_images)
    thumbs[:framed, :3] = np.arange(12) * 20 + random.integers(0, 3, (framed, 3, 12))
    frames = find_frames(thumbs)
    assert [frame is not None for frame in frames] == [k < framed for k in range(num_images)]
    fits = next(s for s in (0.8, 0.5, 0.25) if s * num_images <= framed)
    for frame in frames[:framed]:
        np.testing.assert_array_equal(frame, _common(thumbs, fits))


def test_views_are_seen_as_torch_sees_them() -> None:
    torch.manual_seed(0)
    views = torch.tensor([[[0.8, 0.1, -0.2], [-0.05, 1.1, 0.3]], [[1, 0, 0], [0, 0.7, -0.3]]])
    images = torch.rand(2, 2, 32, 32)
    grid = functional.affine_grid(views, [2, 2, 32, 32], align_corners=False)
    expected = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    inside = (grid.abs().amax(-1) <= 1).float()[:, None]
    seen, where = look(images, views)
    torch.testing.assert_close(seen, expected[:, :1], atol=1e-5, rtol=0)
    torch.testing.assert_close(where, expected[:, 1:] * inside, atol=1e-5, rtol=0)
    one = functional.grid_sample(
        images, grid[1:].expand(2, -1, -1, -1), padding_mode="border", align_corners=False
    )
    torch.testing.assert_close(see(images, views[1:]), one, atol=1e-5, rtol=0)
