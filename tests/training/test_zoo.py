from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from busi_search.architectures import ARCHITECTURES
from busi_search.errors import InputError
from busi_search.training.backbones import HarmonicConv2d, cosine_basis
from busi_search.training.fit import make_optimizer
from busi_search.training.freezing import freeze_backbone, parameter_groups, set_training_mode
from busi_search.training.zoo import build_model

# One row an architecture: sizes at which it is tried.
SIZES = {
    "small_cnn": (28, 64),
    "small_cnn_wide": (28,),
    "tiny_resnet": (28, 64),
    "resnet18": (28, 64),
    "resnet34": (64,),
    "resnet50": (64,),
    "resnet18_small": (28,),
    "resnet50_small": (28,),
    "harmonic_resnet18": (28,),
    "densenet121": (28, 64),
    "efficientnet_b0": (28, 64),
    "efficientnet_lite0": (28, 64),
    "efficientnet_lite1": (64,),
    "efficientnet_lite2": (64,),
    "mobilenet_v3_small": (28, 64),
    "mobilenet_v3_large": (64,),
    "convnext_tiny": (28, 64),
    "vit_b_16": (28, 64),
    "swin_t": (28, 64),
}
ROWS = [(name, size) for name, sizes in SIZES.items() for size in sizes]

# Of the same blocks as a smaller one that is tried at every change, only deeper or wider.
LARGER = {
    "small_cnn_wide": "small_cnn",
    "resnet34": "resnet18",
    "resnet50_small": "resnet50",
    "efficientnet_lite1": "efficientnet_lite0",
    "efficientnet_lite2": "efficientnet_lite0",
    "mobilenet_v3_large": "mobilenet_v3_small",
}


def _marks(name: str) -> list[pytest.MarkDecorator]:
    """Networks of ImageNet's size take seconds each; the quick run leaves them to the whole one."""
    slow = [pytest.mark.slow] if ARCHITECTURES[name].imagenet else []
    return [*slow, pytest.mark.exhaustive] if name in LARGER else slow


SMALL_FIRST = [pytest.param(name, marks=_marks(name)) for name in ARCHITECTURES]


def test_every_architecture_has_its_row() -> None:
    assert set(SIZES) == set(ARCHITECTURES)
    assert set(LARGER) | set(LARGER.values()) <= set(ARCHITECTURES)
    assert not set(LARGER) & set(LARGER.values())


@pytest.mark.parametrize(("architecture", "size"), ROWS)
def test_every_architecture_trains_a_step(architecture: str, size: int) -> None:
    model = build_model(architecture, num_classes=3, head="mlp", dropout=0.2)
    features = model.features(model.normalise(torch.zeros(2, 1, size, size)))
    assert features.shape == (2, ARCHITECTURES[architecture].num_features)
    pixels = torch.randint(0, 256, (4, 1, size, size)).float()
    optimizer = make_optimizer(model, "adamw", learning_rate=1e-3, weight_decay=0.01)
    logits = model(pixels)
    assert logits.shape == (4, 3)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert np.mean(moved) > 0.9


@pytest.mark.parametrize("architecture", SMALL_FIRST)
def test_every_architecture_exports_and_comes_back_equal(architecture: str, tmp_path: Path) -> None:
    size = SIZES[architecture][0]
    # All test-time views go into the exported program; the moved ones here only where it is quick.
    shift = 1 if architecture.startswith("small_cnn") else 0
    model = build_model(
        architecture, num_classes=3, test_time_flip=True, test_time_shift=shift
    ).eval()
    example = torch.zeros(2, 1, size, size)
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    pixels = torch.randint(0, 256, (5, 1, size, size)).float()
    with torch.inference_mode():
        torch.testing.assert_close(loaded(pixels), model(pixels), atol=1e-4, rtol=1e-4)


def test_test_time_flip_makes_an_image_and_its_mirror_equal() -> None:
    model = build_model("small_cnn", num_classes=3, test_time_flip=True).eval()
    plain = build_model("small_cnn", num_classes=3).eval()
    plain.load_state_dict(model.state_dict())
    pixels = torch.randint(0, 256, (4, 1, 28, 28)).float()
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels), model(pixels.flip(-1)))
        both = torch.softmax(plain(pixels), 1) + torch.softmax(plain(pixels.flip(-1)), 1)
        torch.testing.assert_close(torch.softmax(model(pixels), 1), both / 2)


def test_test_time_shift_averages_an_image_and_its_moved_copies() -> None:
    model = build_model("small_cnn", num_classes=3, test_time_shift=2).eval()
    plain = build_model("small_cnn", num_classes=3).eval()
    plain.load_state_dict(model.state_dict())
    pixels = torch.randint(0, 256, (4, 1, 28, 28)).float()
    rows = np.pad(pixels.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    with torch.inference_mode():
        seen = [
            torch.softmax(plain(torch.from_numpy(rows[..., y : y + 28, x : x + 28].copy())), 1)
            for y in (0, 2, 4)
            for x in (0, 2, 4)
        ]
        mean = torch.stack(seen).mean(0)
        torch.testing.assert_close(torch.softmax(model(pixels), 1), mean)
        assert (torch.softmax(plain(pixels), 1) - mean).abs().max() > 1e-4
        both = build_model("small_cnn", num_classes=3, test_time_shift=2, test_time_flip=True)
        both.load_state_dict(model.state_dict())
        both.eval()
        torch.testing.assert_close(both(pixels), both(pixels.flip(-1)))
    assert (plain.num_test_views, model.num_test_views, both.num_test_views) == (1, 9, 18)
    torch.testing.assert_close(model.train()(pixels).shape, plain.train()(pixels).shape)


def test_heads_are_built_as_described() -> None:
    linear = build_model("resnet18", num_classes=4, dropout=0.3).head
    assert [type(layer).__name__ for layer in linear] == ["Dropout", "Linear"]
    head = build_model("resnet18", num_classes=3, head="mlp", head_width=128, dropout=0.85).head
    names = [type(layer).__name__ for layer in head]
    assert names == ["Dropout", "Linear", "BatchNorm1d", "ReLU", "Dropout", "Linear"]
    assert (head[0].p, head[4].p) == (0.85, 0.5)
    assert head[1].weight.shape == (128, 512)
    assert head[5].weight.shape == (3, 128)


def test_small_stems_keep_the_resolution() -> None:
    small = build_model("resnet18_small", num_classes=2)
    usual = build_model("resnet18", num_classes=2)
    pixels = torch.zeros(2, 1, 28, 28)
    assert small.stages[0](small.normalise(pixels)).shape[-1] == 28
    assert usual.stages[0](usual.normalise(pixels)).shape[-1] == 7


def test_the_cosine_basis_is_orthonormal_and_harmonic_layers_convolve() -> None:
    basis = cosine_basis(3).reshape(9, 9)
    torch.testing.assert_close(basis @ basis.T, torch.eye(9), atol=1e-6, rtol=0)
    assert (basis[0] == basis[0, 0]).all()
    layer = HarmonicConv2d(2, 4, size=3, stride=2, padding=1)
    x = torch.randn(1, 2, 8, 8)
    # The definition: filter with every cosine function, then mix the responses.
    responses = F.conv2d(x, layer.basis[:, None].repeat(2, 1, 1, 1), padding=1, stride=2, groups=2)
    mixed = torch.einsum("of,nfhw->nohw", layer.coefficients.reshape(4, 18), responses)
    torch.testing.assert_close(layer(x), mixed, atol=1e-5, rtol=1e-5)


def test_normalisations_differ_as_named() -> None:
    white = torch.full((1, 1, 4, 4), 255.0)
    for name, expected in (("half", 1.0), ("scratch", 3.0), ("imagenet", (1 - 0.485) / 0.229)):
        model = build_model("resnet18", num_classes=2, normalisation=name)
        assert model.normalise(white)[0, 0, 0, 0] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("architecture", SMALL_FIRST)
def test_frozen_stages_do_not_move_at_any_depth(architecture: str) -> None:
    pixels = torch.randint(0, 256, (4, 1, 32, 32)).float()
    fresh = build_model(architecture, num_classes=2)
    for depth in range(ARCHITECTURES[architecture].num_stages + 1):
        # Drawing new weights takes longer than the rest.
        model = deepcopy(fresh)
        freeze_backbone(model, depth)
        optimizer = make_optimizer(model, "sgd", learning_rate=0.1, weight_decay=0.1)
        before = {key: value.clone() for key, value in model.state_dict().items()}
        set_training_mode(model, depth)
        F.cross_entropy(model(pixels), torch.tensor([0, 1, 1, 0])).backward()
        optimizer.step()
        for key, value in model.state_dict().items():
            stage = int(key.split(".")[1]) if key.startswith("stages.") else 99
            if stage < depth:
                assert torch.equal(before[key], value), f"{key} moved at depth {depth}"
            elif key.endswith("running_mean"):
                assert not torch.equal(before[key], value), f"{key} stood at depth {depth}"
        moved = [k for k, v in model.state_dict().items() if not torch.equal(before[k], v)]
        assert any(key.startswith("head.") for key in moved)


def test_freezing_deeper_than_the_network_is_refused() -> None:
    with pytest.raises(InputError, match="freeze_depth = 4"):
        freeze_backbone(build_model("small_cnn", num_classes=2), 4)


def test_only_matrices_decay() -> None:
    model = build_model("small_cnn", num_classes=2)
    decayed, others = parameter_groups(model, learning_rate=0.1, weight_decay=0.1)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in others["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(InputError, match="small_cnn"):
        build_model("resnet19", num_classes=2)
