"""What the head sees: stages side by side, pooled in several ways."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from busi_search.data.folds import make_folds
from busi_search.errors import InputError
from busi_search.models.ensemble import FoldEnsemble
from busi_search.report.grad_cam import grad_cam
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import fold_results
from busi_search.spec import Hyperparameters
from busi_search.training.classifier import ImageClassifier
from busi_search.training.fit import make_optimizer
from busi_search.training.freezing import freeze_backbone
from busi_search.training.from_hyperparameters import make_inputs
from busi_search.training.inputs import PixelInputs
from busi_search.training.readout import pool_map
from busi_search.training.zoo import build_model

# One architecture of every family that has maps.
CONVOLUTIONAL = [
    "small_cnn",
    "tiny_resnet",
    "resnet18",
    "efficientnet_lite0",
    "mobilenet_v3_small",
    pytest.param("harmonic_resnet18", marks=pytest.mark.slow),
    pytest.param("densenet121", marks=pytest.mark.slow),
    pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    pytest.param("convnext_tiny", marks=pytest.mark.slow),
    pytest.param("swin_t", marks=pytest.mark.slow),
]
POOLINGS = ["avg", "max", "gem", "avgmax", "attention"]


def _build(architecture: str, seed: int = 0, **options: object) -> ImageClassifier:
    torch.manual_seed(seed)
    return build_model(architecture, num_classes=3, **options).eval()


def _pixels(count: int = 2, size: int = 64, regions: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, regions, size, size), generator=generator).float()


def _features(model: ImageClassifier, pixels: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.features(model.normalise(pixels))


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_the_last_stage_comes_last_and_as_it_always_was(architecture: str) -> None:
    pixels = _pixels()
    usual = _features(_build(architecture), pixels)
    for layers in (2, 20):
        several = _features(_build(architecture, pooling="avg", feature_layers=layers), pixels)
        torch.testing.assert_close(several[:, -usual.shape[1] :], usual, rtol=1e-5, atol=1e-6)
        assert several.shape[1] > usual.shape[1]
    both = _features(_build(architecture, pooling="avgmax"), pixels)
    torch.testing.assert_close(both[:, : usual.shape[1]], usual, rtol=1e-5, atol=1e-6)
    most = _features(_build(architecture, pooling="max"), pixels)
    torch.testing.assert_close(both[:, usual.shape[1] :], most)


def test_features_are_pooled_maps_of_the_stages_in_their_order() -> None:
    pixels = _pixels()
    model = _build("resnet18", pooling="avgmax", feature_layers=3)
    x, parts = model.normalise(pixels), []
    with torch.no_grad():
        for index, stage in enumerate(model.stages):
            x = stage[0](x) if index == 4 else stage(x)
            if index >= 2:
                parts += [x.mean(dim=(2, 3)), x.flatten(2).max(dim=2).values]
    expected = torch.cat(parts, dim=1)
    assert expected.shape == (2, 2 * (128 + 256 + 512))
    torch.testing.assert_close(_features(model, pixels), expected, rtol=1e-5, atol=1e-5)


def test_small_networks_are_pooled_cell_by_cell() -> None:
    pixels = _pixels(size=32)
    model = _build("small_cnn", pooling="max")
    found = _features(model, pixels).view(2, 64, 3, 3)
    with torch.no_grad():
        x = model.stages[1](model.stages[0](model.normalise(pixels)))
        x = model.stages[2][0](x)
    assert x.shape[-1] == 4
    # Of four places a side the first cell has two.
    torch.testing.assert_close(found[:, :, 0, 0], x[:, :, :2, :2].amax(dim=(2, 3)))


def test_the_generalised_mean_lies_between_mean_and_maximum() -> None:
    x = torch.rand(3, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    (mean,), (most,), (between,) = (pool_map(x, name, 1) for name in ("avg", "max", "gem"))
    assert (mean < between).all()
    assert (between < most).all()
    cubes = (x.double() ** 3).mean(dim=(2, 3), keepdim=True) ** (1 / 3)
    torch.testing.assert_close(between, cubes.float(), rtol=1e-5, atol=1e-6)


def test_attention_begins_anywhere_and_learns_where_to_look() -> None:
    model = _build("small_cnn", pooling="attention", feature_layers=2)
    assert model.readout is not None
    with torch.no_grad():
        for score in model.readout.scores:
            nn.init.zeros_(score.weight)
    # Without an opinion every place counts the same.
    found = _features(model, _pixels())
    with torch.no_grad():
        x = model.stages[1](model.stages[0](model.normalise(_pixels())))
    torch.testing.assert_close(found[:, :32], x.mean(dim=(2, 3)), rtol=1e-5, atol=1e-6)
    freeze_backbone(model, 3)
    optimizer = make_optimizer(model, "adamw", learning_rate=0.1, weight_decay=0.0)
    nn.functional.cross_entropy(model(_pixels()), torch.tensor([0, 2])).backward()
    optimizer.step()
    assert all(score.weight.abs().max() > 0.01 for score in model.readout.scores)


def test_the_default_has_the_weights_it_always_had() -> None:
    assert _build("resnet18").readout is None
    plain, other = _build("resnet18"), _build("resnet18", pooling="avgmax", feature_layers=5)
    assert plain.stages.state_dict().keys() == other.stages.state_dict().keys()


def test_tokens_are_not_pooled() -> None:
    with pytest.raises(InputError, match="vit_b_16 has one pooling"):
        build_model("vit_b_16", num_classes=2, pooling="max")


@pytest.mark.parametrize("regions", [1, 2])
@pytest.mark.parametrize("pooling", ["gem", "avgmax", "attention"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_kept_prefix_gives_what_pixels_give(pooling: str, depth: int, regions: int) -> None:
    model = _build("small_cnn", pooling=pooling, feature_layers=3, num_regions=regions)
    freeze_backbone(model, depth)
    images = _pixels(5, 32, regions).to(torch.uint8)
    settings = Hyperparameters(weights="phantom", freeze_depth=depth, augmentation_views=1)
    kept = make_inputs(model, images, settings, None, "cpu")
    live = PixelInputs(images, lambda pixels, targets, _generator: (pixels, targets), "cpu")
    model.eval()
    with torch.no_grad():
        some = torch.tensor([3, 0, 4])
        found, expected = kept.evaluate(model, some), live.evaluate(model, some)
    # Kept ones have 16 bits.
    torch.testing.assert_close(found, torch.log_softmax(expected, dim=1), rtol=0, atol=5e-3)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_an_exported_network_answers_the_same(pooling: str) -> None:
    options = {"pooling": pooling, "feature_layers": 2, "test_time_flip": True}
    ensemble = FoldEnsemble([_build("small_cnn", seed, **options) for seed in (0, 1)]).eval()
    assert not ensemble.shares_stages
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(ensemble, (_pixels(2, 32),), dynamic_shapes=shapes).module()
    for count in (1, 7):
        with torch.no_grad():
            torch.testing.assert_close(
                program(_pixels(count, 32)), ensemble(_pixels(count, 32)), rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("pooling", POOLINGS)
def test_there_are_maps_of_what_spoke(pooling: str) -> None:
    model = _build("resnet18", pooling=pooling, feature_layers=3)
    heat = grad_cam(model, _pixels(), torch.tensor([0, 2]))
    assert heat is not None
    assert heat.shape == (2, 8, 8)
    assert heat.max() == pytest.approx(1)


def test_a_stage_before_the_last_may_speak_too() -> None:
    model = _build("small_cnn", feature_layers=2)
    with torch.no_grad():
        # The head hears the second of three stages only.
        model.head[-1].weight[:, 32:] = 0
    pixels = torch.zeros(1, 1, 64, 64)
    pixels[..., :20, :20] = 255
    heat = grad_cam(model, pixels, torch.tensor([1]))
    alone = grad_cam(_build("small_cnn"), pixels, torch.tensor([1]))
    assert heat is not None
    assert alone is not None
    assert heat.any()
    assert heat.shape == (1, 14, 14)
    # Alone, the last thing seen is the grid of 3×3 cells that this architecture pools to.
    assert alone.shape == (1, 3, 3)


def _steps(**settings: object) -> Iterator[float]:
    rng = np.random.default_rng(0)
    labels = np.arange(40) % 2
    images = (rng.integers(0, 90, (40, 32, 32)) + 60 * labels[:, None, None]).astype(np.uint8)
    folds = make_folds(labels, np.arange(40), num_folds=2, seed=0)
    masks = np.where(images > 60, 255, 0).astype(np.uint8)
    data = DevelopmentSet(images, labels, np.arange(40), folds, 2, positive=1, masks=masks)
    chosen = Hyperparameters(
        epochs=4, batch_size=8, learning_rate=3e-3, augmentation_strength=0.1, **settings
    )
    steps = cross_validate(data, chosen, study_seed=0, trial_number=0)
    return (result.metrics["auc"] for result in fold_results(steps))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_training_works_with_every_pooling_and_with_masks(pooling: str) -> None:
    scores = list(_steps(pooling=pooling, feature_layers=2, mask_weight=0.5))
    assert np.mean(scores) > 0.9
