"""One backbone for several regions of an image."""

import numpy as np
import pytest
import torch

from busi_search.data.folds import make_folds
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import fold_results
from busi_search.spec import Hyperparameters
from busi_search.training.from_hyperparameters import (
    augment_regions,
    augmentation_ranges,
    make_model,
)
from busi_search.training.zoo import build_model


def test_features_of_both_regions_stand_side_by_side() -> None:
    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=2, num_regions=2).eval()
    whole, lesion = torch.rand(2, 3, 1, 32, 32) * 255
    both = torch.cat([whole, lesion], dim=1)
    with torch.inference_mode():
        apart = [model.features(model.normalise(part.expand(-1, 2, -1, -1)))[::2]
                 for part in (whole, lesion)]  # fmt: skip
        expected = model.head(torch.cat(apart, dim=1))
        torch.testing.assert_close(model(both), expected)
    assert model.head[1].in_features == 2 * 64 * 9  # type: ignore[index,union-attr]


@pytest.mark.parametrize("flip", [False, True])
def test_test_views_move_both_regions(flip: bool) -> None:
    torch.manual_seed(0)
    model = build_model("small_cnn", num_classes=2, num_regions=2, test_time_flip=flip).eval()
    pixels = torch.rand(3, 2, 32, 32) * 255
    with torch.inference_mode():
        mirrored = torch.softmax(model(pixels.flip(-1)), dim=1)
        same = torch.allclose(torch.softmax(model(pixels), dim=1), mirrored, atol=1e-6)
    assert same == flip


def test_masks_go_with_their_region() -> None:
    pixels = torch.rand(4, 2, 32, 32) * 255
    stacked = torch.cat([pixels, pixels], dim=1)
    settings = Hyperparameters(contrast=0.0, brightness=0.0, gain_slope=0.0, erasing=0.0)
    ranges = augmentation_ranges(settings)

    def alter(some: torch.Tensor) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return augment_regions(some, generator, strength=1.0, ranges=ranges, regions=2)

    moved = alter(stacked)
    assert moved.shape == stacked.shape
    torch.testing.assert_close(moved[:, :2], moved[:, 2:])
    # The two regions have draws of their own.
    apart = alter(pixels[:, :1].expand(-1, 2, -1, -1))
    assert not torch.allclose(apart[:, 0], apart[:, 1])


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_weight": 1.0},
        {"weights": "phantom", "freeze_depth": 2, "augmentation_views": 2},
    ],
)
def test_what_stands_only_in_the_lesion_is_learned(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(80) % 2
    images = generator.integers(60, 120, (80, 2, 32, 32)).astype(np.uint8)
    images[labels == 1, 1, 10:22, 10:22] += 120
    if "weights" in settings:
        # Random weights in place of learned ones: what is cached of them must fit all the same.
        start = build_model("small_cnn", num_classes=2).stages.state_dict()
        monkeypatch.setattr(
            "busi_search.training.from_hyperparameters.phantom_weights",
            lambda *_args, **_options: start,
        )
        monkeypatch.setattr(
            "busi_search.training.from_hyperparameters.load_backbone",
            lambda model, _name, learned, _origin: model.stages.load_state_dict(learned),
        )
    hyperparameters = Hyperparameters(
        region="both", image_size_pixels=32, epochs=6, learning_rate=1e-2, **settings
    )
    data = DevelopmentSet(
        images=images,
        labels=labels,
        groups=np.arange(80),
        folds=make_folds(labels, np.arange(80), num_folds=2, seed=0),
        num_classes=2,
        positive=1,
        masks=np.where(images > 150, 255, 0).astype(np.uint8),
    )
    results = list(
        fold_results(cross_validate(data, hyperparameters, study_seed=0, trial_number=0))
    )
    assert min(result.metrics["auc"] for result in results) > 0.9
    model = make_model(Hyperparameters(region="both"), 2, None, "cpu")
    assert model.num_regions == 2
