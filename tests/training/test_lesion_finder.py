"""Where a network finds the lesion, and what is cut out there."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from busi_search.training.lesion_finder import (
    FINDER_SIZE_PIXELS,
    LesionCrop,
    LesionFinder,
    extent_of,
    train_finder,
)


class _Bright(nn.Module):
    """Takes what is bright for the lesion."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(pixels, 4) / 10 - 12


def _disc(x: float, y: float, width: float, height: float, side: int) -> np.ndarray:
    """An ellipse by its middle and its size, in shares of the side."""
    rows, columns = (np.mgrid[0:side, 0:side] + 0.5) / side
    inside = ((columns - x) / (width / 2)) ** 2 + ((rows - y) / (height / 2)) ** 2 < 1
    return np.where(inside, 255, 0).astype(np.float32)


def _crop(**changes: object) -> LesionCrop:
    settings = {"size_pixels": 64, "region": "both", "margin": 0.5, "keeps_aspect": False}
    return LesionCrop([_Bright()], **(settings | changes)).eval()


@pytest.mark.parametrize(("width", "height"), [(0.15, 0.1), (0.4, 0.2), (0.3, 0.6)])
def test_the_extent_of_an_ellipse_is_its_width_and_height(width: float, height: float) -> None:
    share = torch.from_numpy(_disc(0.45, 0.55, width, height, 40) / 255 * 0.9 + 0.03)
    middle, extent = extent_of(share[None])
    assert middle[0].tolist() == pytest.approx([0.45, 0.55], abs=0.02)
    assert extent[0].tolist() == pytest.approx([width, height], rel=0.1, abs=0.01)


def test_the_lesion_is_cut_out_with_its_margin_beside_the_whole() -> None:
    pixels = torch.from_numpy(_disc(0.3, 0.6, 0.2, 0.1, 128))[None, None]
    crop = _crop()
    left, top, right, bottom = crop.windows(pixels)[0].tolist()
    assert (left, right) == pytest.approx((0.1, 0.5), abs=0.03)
    assert (top, bottom) == pytest.approx((0.5, 0.7), abs=0.03)
    whole, lesion = crop(pixels)[0]
    assert whole.shape == lesion.shape == (64, 64)
    # Half of the region's width and height is lesion, in its middle.
    assert float((lesion > 127).float().mean()) == pytest.approx(np.pi / 16, abs=0.04)
    assert lesion[32, 32] == 255
    assert lesion[2, 2] == 0
    assert _crop(region="lesion")(pixels).shape == (1, 1, 64, 64)


def test_proportions_are_kept_in_a_square_inside_of_the_image() -> None:
    pixels = torch.from_numpy(_disc(0.9, 0.5, 0.1, 0.3, 128))[None, None]
    left, top, right, bottom = _crop(keeps_aspect=True).windows(pixels)[0].tolist()
    assert right - left == pytest.approx(bottom - top, abs=1e-5)
    assert right <= 1
    assert bottom - top == pytest.approx(0.6, abs=0.06)


def test_an_image_without_anything_is_seen_whole() -> None:
    windows = _crop().windows(torch.zeros(2, 1, 128, 128))
    assert torch.equal(windows, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4))


def test_finders_are_averaged_and_export_for_any_number_of_images() -> None:
    torch.manual_seed(0)
    crop = LesionCrop(
        [LesionFinder().eval(), LesionFinder().eval()],
        size_pixels=32,
        region="both",
        margin=0.25,
        keeps_aspect=False,
    ).eval()
    pixels = torch.randint(0, 256, (3, 1, 64, 64)).float()
    batch = torch.export.Dim("batch")
    program = torch.export.export(crop, (pixels[:2],), dynamic_shapes=({0: batch},))
    with torch.inference_mode():
        assert torch.equal(program.module()(pixels), crop(pixels))


@pytest.mark.slow
def test_a_finder_learns_where_lesions_are(rng: np.random.Generator) -> None:
    side = FINDER_SIZE_PIXELS
    places = rng.uniform(0.25, 0.75, (40, 2))
    masks = np.stack([_disc(x, y, 0.3, 0.25, side) for x, y in places])
    noise = rng.uniform(0, 120, masks.shape)
    images = np.where(masks > 0, noise / 3, noise + 60).astype(np.uint8)
    finder = train_finder(images[:32], masks[:32].astype(np.uint8), seed=0, num_steps=40)
    again = train_finder(images[:32], masks[:32].astype(np.uint8), seed=0, num_steps=1)
    with torch.inference_mode():
        pixels = torch.from_numpy(images[32:]).float().unsqueeze(1)
        middle, extent = extent_of(torch.sigmoid(finder(pixels))[:, 0])
        untrained, vague = extent_of(torch.sigmoid(again(pixels))[:, 0])
    wanted, size = torch.from_numpy(places[32:]).float(), torch.tensor([0.3, 0.25])
    assert float((middle - wanted).abs().mean()) < 0.05
    assert float((untrained - wanted).abs().mean()) > 0.08
    assert float((extent - size).abs().mean()) < 0.7 * float((vague - size).abs().mean())
