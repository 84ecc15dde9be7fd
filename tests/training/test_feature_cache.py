from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from busi_search.data.folds import make_folds
from busi_search.errors import BusiSearchError
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.seeding import seed_everything
from busi_search.spec import Hyperparameters
from busi_search.training import feature_cache
from busi_search.training.augment import augment_batch
from busi_search.training.classifier import ImageClassifier
from busi_search.training.feature_cache import load_features
from busi_search.training.freezing import freeze_backbone
from busi_search.training.from_hyperparameters import augmentation_ranges
from busi_search.training.zoo import build_model

IMAGES = torch.randint(0, 256, (30, 1, 32, 32), generator=torch.Generator().manual_seed(0)).to(
    torch.uint8
)


def _model(depth: int = 3, *, flip: bool = False, seed: int = 0) -> ImageClassifier:
    seed_everything(seed)
    model = build_model("resnet18", num_classes=2, test_time_flip=flip)
    freeze_backbone(model, depth)
    return model


def _augment(pixels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    return augment_batch(pixels, 0.5, generator, augmentation_ranges(Hyperparameters()))


def _load(folder: Path | None, model: ImageClassifier, **changes: object) -> np.ndarray:
    options = {"depth": 3, "num_views": 2, "settings": {"strength": 0.5}} | changes
    return load_features(model, IMAGES, augment=_augment, folder=folder, **options)


def test_features_are_what_the_frozen_stages_give(tmp_path: Path) -> None:
    model = _model(flip=True)
    found = _load(tmp_path, model)
    assert found.shape == (4, 30, 128, 4, 4)
    assert found.dtype == np.float16
    model.eval()
    with torch.inference_mode():
        for view, pixels in ((2, IMAGES), (3, IMAGES.flip(-1))):
            x = model.normalise(pixels.float())
            for stage in list(model.stages)[:3]:
                x = stage(x)
            np.testing.assert_allclose(found[view], x.numpy(), atol=2e-3, rtol=2e-3)
    assert np.abs(found[0].astype(float) - found[1]).mean() > 1e-3
    np.testing.assert_array_equal(found, _load(None, model))


def test_the_second_to_ask_computes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _load(tmp_path, _model())
    # Another head, another process's model object: the frozen part is what counts.
    monkeypatch.setattr(feature_cache, "_compute", lambda *_, **__: pytest.fail("computed again"))
    np.testing.assert_array_equal(_load(tmp_path, _model()), first)


@pytest.mark.parametrize(
    "changes", [{"depth": 2}, {"num_views": 3}, {"settings": {"strength": 0.25}}]
)
def test_whatever_it_depends_on_is_part_of_the_key(tmp_path: Path, changes: dict) -> None:
    _load(tmp_path, _model())
    _load(tmp_path, _model(), **changes)
    _load(tmp_path, _model(seed=1))
    assert len(list(tmp_path.glob("*.npy"))) == 3


def test_a_damaged_file_is_made_again(tmp_path: Path) -> None:
    whole = np.array(_load(tmp_path, _model()))
    (file,) = tmp_path.glob("*.npy")
    file.write_bytes(file.read_bytes()[:-1000])
    np.testing.assert_array_equal(_load(tmp_path, _model()), whole)


def _ask(folder: Path) -> bytes:
    torch.set_num_threads(1)
    return np.array(_load(folder, _model())).tobytes()


@pytest.mark.slow
def test_two_processes_build_it_once(tmp_path: Path) -> None:
    with get_context("spawn").Pool(2) as pool:
        one, two = pool.map(_ask, [tmp_path, tmp_path])
    assert one == two
    assert len(list(tmp_path.glob("*.npy"))) == 1
    assert not list(tmp_path.glob("*.tmp"))


def test_old_files_go_and_a_full_disk_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _load(tmp_path, _model())
    (old,) = tmp_path.glob("*.npy")
    monkeypatch.setattr(feature_cache, "MAX_CACHE_BYTES", 1)
    _load(tmp_path, _model(seed=1))
    assert not old.exists()
    assert len(list(tmp_path.glob("*.npy"))) == 1
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(feature_cache.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(BusiSearchError, match="augmentation_views = 0"):
        _load(tmp_path, _model(seed=2))


@pytest.mark.slow
def test_without_augmentation_cached_training_is_the_same_as_uncached(tmp_path: Path) -> None:
    """One view that is the image itself: only rounding to half precision is between the two."""
    weights = tmp_path / "weights.pth"
    torch.save(_model(0).state_dict(), weights)
    labels = np.arange(30) % 2
    images = (IMAGES[:, 0].numpy() // 2 + 100 * labels[:, None, None]).astype(np.uint8)
    folds = make_folds(labels, np.arange(30), num_folds=2, seed=0)
    data = DevelopmentSet(images, labels, np.arange(30), folds, num_classes=2, positive=1)

    def run(settings: Hyperparameters) -> list[FoldResult]:
        steps = cross_validate(data, settings, study_seed=0, trial_number=0, cache=tmp_path)
        return list(fold_results(steps))

    for depth in (4, 5):
        settings = Hyperparameters(
            architecture="resnet18", weights=str(weights), freeze_depth=depth, epochs=3,
            batch_size=8, augmentation_strength=0.0, image_size_pixels=32, dropout=0.0,
            test_time_flip=True, test_time_shift=1,
        )  # fmt: skip
        plain = run(settings)
        cached = run(settings.model_copy(update={"augmentation_views": 1}))
        for one, two in zip(plain, cached, strict=True):
            # The order of the images differs: views are drawn from the same generator.
            np.testing.assert_allclose(
                np.exp(one.log_probabilities), np.exp(two.log_probabilities), atol=0.25
            )
            assert one.metrics["auc"] == pytest.approx(two.metrics["auc"], abs=0.06)
            # What the trained network itself says about the pixels is what was scored.
            assert two.model is not None
            with torch.inference_mode():
                rows = two.model.eval()(torch.from_numpy(images).unsqueeze(1).float())
            scored = torch.from_numpy(two.log_probabilities.copy())
            own = torch.log_softmax(rows[folds[two.fold].validation], 1)
            torch.testing.assert_close(own, scored, atol=0.02, rtol=0.02)
