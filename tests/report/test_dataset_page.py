"""A dataset as one page."""

import re
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from busi_search.data.phantom import simulate_phantom, write_phantom
from busi_search.report.burned_in_marks import count_mark_pixels
from busi_search.report.dataset_page import describe_dataset


def _speckle(seed: int) -> Image.Image:
    noise = gaussian_filter(np.random.default_rng(seed).normal(size=(256, 256)), 1.5)
    return Image.fromarray(np.clip(90 + 60 * noise / noise.std(), 0, 255).astype(np.uint8))


def test_text_and_calipers_are_told_from_speckle() -> None:
    for seed in range(5):
        plain, written = _speckle(seed), _speckle(seed)
        draw = ImageDraw.Draw(written)
        draw.text((20, 210), "RT BREAST UOQ", fill=255, font_size=16)
        for x in (60, 180):
            draw.line((x - 5, 100, x + 5, 100), fill=255)
            draw.line((x, 95, x, 105), fill=255)
        assert count_mark_pixels(np.asarray(written)) > 32
        assert count_mark_pixels(np.asarray(plain)) < 16


def test_the_page_holds_what_one_looks_for(tmp_path: Path) -> None:
    write_phantom(tmp_path / "p", simulate_phantom(40, size_pixels=64))
    page = describe_dataset(str(tmp_path / "p"), cache=tmp_path / "cache")
    for heading in ("Burned-in marks", "What augmentation does", "Near-duplicates",
                    "Contradictory labels", "Strength 0.5", "Grey levels"):  # fmt: skip
        assert heading in page
    strengths = re.split(r"<h3>Strength [\d.]+</h3>", page)[1:]
    images = [re.findall(r"base64,([^\"]+)", part.split("</div>")[0]) for part in strengths]
    assert [len(found) for found in images] == [6, 6, 6]
    # At strength 0 images are as they are; they stand among the samples too.
    assert all(page.count(shown) >= 1 for shown in images[0])
    assert not set(images[0]) & set(images[1])
    assert not set(images[1]) & set(images[2])
    assert not re.search(r"<(script|img|link)[^>]+(src|href)=\"https?:", page)
