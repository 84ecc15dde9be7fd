"""Features of all stages and poolings, kept once."""

from pathlib import Path

import numpy as np
import pytest
import torch

from busi_search.spec import Hyperparameters
from busi_search.training import feature_bank
from busi_search.training.classifier import ImageClassifier
from busi_search.training.from_hyperparameters import load_frozen_features
from busi_search.training.zoo import build_model

IMAGES = torch.randint(0, 256, (9, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(
    torch.uint8
)


@pytest.fixture(autouse=True)
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_bank, "IMAGES_PER_FILE", 4)


def _model(architecture: str = "small_cnn", **options: object) -> ImageClassifier:
    torch.manual_seed(0)
    return build_model(architecture, num_classes=2, **options).eval()


def _load(
    model: ImageClassifier, folder: Path | None, images: torch.Tensor = IMAGES, **settings: object
) -> np.ndarray:
    begin_at = settings.pop("begin_at", 0)
    chosen = Hyperparameters(weights="phantom", **settings)
    return load_frozen_features(model, images, chosen, folder, begin_at=begin_at)


@pytest.mark.parametrize("architecture", ["small_cnn", "efficientnet_lite0", "swin_t", "vit_b_16"])
@pytest.mark.parametrize(("pooling", "layers"), [("avg", 1), ("avgmax", 3), ("gem", 2)])
def test_a_trial_takes_the_columns_that_its_head_sees(
    architecture: str, pooling: str, layers: int, tmp_path: Path
) -> None:
    if architecture == "vit_b_16" and pooling != "avg":
        pytest.skip("tokens have one pooling")
    options = {"pooling": pooling, "feature_layers": layers, "test_time_flip": True}
    model, images = _model(architecture, **options), IMAGES[:3]
    found = _load(model, tmp_path, images)
    with torch.no_grad():
        for row, pixels in zip(found, (images, images.flip(-1)), strict=True):
            expected = model.features(model.normalise(pixels.float())).numpy()
            np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-4)


def test_another_pooling_depth_or_view_computes_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _load(_model(test_time_flip=True), tmp_path)
    files = set((tmp_path / "features").glob("*.npy"))
    assert len(files) == 2 * 3
    _load(_model(), tmp_path, augmentation_views=1)
    assert len(set((tmp_path / "features").glob("*.npy")) - files) == 3
    monkeypatch.setattr(feature_bank, "_compute", lambda *_: pytest.fail("computed again"))
    kept = _load(_model(pooling="max", feature_layers=2), tmp_path)
    monkeypatch.undo()
    np.testing.assert_array_equal(kept, _load(_model(pooling="max", feature_layers=2), None))


def test_where_it_begins_changes_nothing(tmp_path: Path) -> None:
    model = _model(test_time_flip=True, test_time_shift=1)
    first = _load(model, tmp_path / "a", augmentation_views=2)
    other = _load(model, tmp_path / "b", augmentation_views=2, begin_at=7)
    assert first.shape == (2 + 18, 9, 576)
    np.testing.assert_array_equal(first, other)
    assert np.abs(first[0] - first[1]).mean() > 1e-3


def test_regions_stand_side_by_side_and_are_shared_with_the_whole_image(tmp_path: Path) -> None:
    both = torch.cat([IMAGES, IMAGES.flip(-2)], dim=1)
    found = _load(_model(num_regions=2), tmp_path, both)
    assert found.shape == (1, 9, 2 * 576)
    files = len(list((tmp_path / "features").glob("*.npy")))
    np.testing.assert_array_equal(found[..., :576], _load(_model(), tmp_path))
    assert len(list((tmp_path / "features").glob("*.npy"))) == files


def test_other_weights_or_pixels_are_other_features(tmp_path: Path) -> None:
    first = _load(_model(), tmp_path)
    torch.manual_seed(1)
    other = _load(build_model("small_cnn", num_classes=2).eval(), tmp_path)
    assert np.abs(first - other).max() > 1e-3
    darker = _load(_model(), tmp_path, IMAGES // 2)
    assert np.abs(first - darker).max() > 1e-3
