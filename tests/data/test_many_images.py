"""Beyond a number of pairs the twin finder looks at few views; copies are found all the same."""

import numpy as np
import pytest
from PIL import Image

from busi_search.data import twin_candidates
from busi_search.data.duplicates import find_duplicates


def _scan(rng: np.random.Generator) -> np.ndarray:
    shapes, speckle = (
        np.asarray(
            Image.fromarray(rng.normal(size=(side, side))).resize(
                (160, 160), Image.Resampling.BICUBIC
            )
        )
        for side in (16, 60)
    )
    return (110 + 45 * shapes + 25 * speckle).clip(0, 255).astype(np.uint8)


def test_copies_are_found_in_few_views(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin_candidates, "MAX_PAIRS_IN_ALL_VIEWS", 0)
    rng = np.random.default_rng(0)
    scans = [_scan(rng) for _ in range(6)]
    small = np.asarray(Image.fromarray(scans[1]).resize((80, 80), Image.Resampling.BILINEAR))
    images = [*scans, scans[0], small, scans[2][:, ::-1].copy(), scans[3][6:-6, 6:-6]]
    assert find_duplicates(images).tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2, 3]
