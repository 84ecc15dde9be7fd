from dataclasses import fields

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from busi_search.spec import Hyperparameters
from busi_search.training.augment import (
    AugmentationRanges,
    _sampling_grid,
    augment_batch,
    mixup,
)
from busi_search.training.from_hyperparameters import augmentation_ranges
from busi_search.training.losses import LossFunction, balanced_class_weights

DEFAULTS = augmentation_ranges(Hyperparameters())


def _batch(num_images: int = 16) -> torch.Tensor:
    row = torch.linspace(20, 230, 32).view(1, 1, 1, 32)
    column = torch.linspace(0.3, 1, 32).view(1, 1, 32, 1)
    return (row * column).repeat(num_images, 1, 1, 1)


def test_every_image_has_draws_of_its_own() -> None:
    out = augment_batch(_batch(), 1.0, torch.Generator().manual_seed(0), DEFAULTS)
    assert out.shape == (16, 1, 32, 32)
    for first in range(16):
        for second in range(first):
            assert (out[first] - out[second]).abs().mean() > 1


def test_strength_scales_the_change_and_zero_changes_nothing() -> None:
    batch = _batch(64)
    changes = []
    for strength in (0.0, 0.25, 0.5, 1.0):
        out = augment_batch(batch, strength, torch.Generator().manual_seed(1), DEFAULTS)
        assert out.min() >= 0
        assert out.max() <= 255
        changes.append(float((out - batch).abs().mean()))
    assert changes[0] == 0
    assert changes == sorted(changes)
    assert changes[-1] > 2 * changes[1] > 0


def test_the_generator_decides() -> None:
    one, two, other = (
        augment_batch(_batch(), 0.7, torch.Generator().manual_seed(s), DEFAULTS) for s in (3, 3, 4)
    )
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_no_image_is_turned_upside_down() -> None:
    """Depth has a direction: the bright end of a depth ramp stays at the bottom."""
    ramp = torch.linspace(0, 255, 32).view(1, 1, 32, 1).expand(200, 1, 32, 32)
    out = augment_batch(ramp, 1.0, torch.Generator().manual_seed(0), DEFAULTS)
    top, bottom = out[:, :, :12].mean((1, 2, 3)), out[:, :, -12:].mean((1, 2, 3))
    assert bool((bottom > top).all())


def test_mixup_blends_images_and_targets_alike() -> None:
    pixels = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 4, 4)
    targets = F.one_hot(torch.arange(8), 8).float()
    mixed, soft = mixup(pixels, targets, torch.Generator().manual_seed(0), alpha=0.4)
    torch.testing.assert_close(soft.sum(1), torch.ones(8))
    torch.testing.assert_close(mixed[:, 0, 0, 0], soft @ torch.arange(8.0))
    assert not torch.equal(mixed, pixels)
    same, unchanged = mixup(pixels, targets, torch.Generator(), alpha=0.0)
    assert same is pixels
    assert unchanged is targets


def _only(**ranges: float) -> AugmentationRanges:
    """Every operation off but those named."""
    off = {field.name: 0.0 for field in fields(AugmentationRanges)}
    return AugmentationRanges(**{**off, **ranges})


def _augment(batch: torch.Tensor, strength: float = 1.0, **ranges: float) -> torch.Tensor:
    return augment_batch(batch, strength, torch.Generator().manual_seed(0), _only(**ranges))


def test_each_operation_does_what_its_name_says() -> None:
    batch = torch.rand(200, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 200
    torch.testing.assert_close(_augment(batch), batch, atol=1e-2, rtol=1e-4)

    def share(altered: torch.Tensor, expected: torch.Tensor) -> float:
        same = (altered - expected).abs().amax(dim=(1, 2, 3)) < 0.1
        return float(same.float().mean())

    assert 0.2 < share(_augment(batch, flip_horizontal=0.3), batch.flip(-1)) < 0.4
    assert 0.2 < share(_augment(batch, flip_vertical=0.3), batch.flip(-2)) < 0.4
    assert share(_augment(batch, flip_horizontal=0.3, flip_vertical=0.3), batch.flip(-1, -2)) > 0
    brighter = _augment(batch * 0 + 128, brightness=0.1)
    assert 20 < (brighter - 128).abs().max() < 25.6
    assert (brighter - 128).abs().mean() > 8
    contrast = _augment(batch, contrast=0.5).std(dim=(1, 2, 3)) / batch.std(dim=(1, 2, 3))
    assert 0.49 < contrast.min() < 0.6
    assert 1.3 < contrast.max() < 1.51
    stretched = _augment(batch[:, :, :, :] * 0.5 + 20, autocontrast=1.0)
    assert stretched.amin(dim=(1, 2, 3)).max() < 0.1
    assert stretched.amax(dim=(1, 2, 3)).min() > 254.9
    some = _augment(batch * 0.5 + 20, autocontrast=0.5).amax(dim=(1, 2, 3)) > 254.9
    assert 0.4 < some.float().mean() < 0.6
    erased = _augment(batch, erasing=0.3)
    assert 0.2 < ((erased - batch).abs() > 1).flatten(1).any(1).float().mean() < 0.4
    slope = _augment(batch * 0 + 100, gain_slope=0.4)
    assert (slope[:, 0, 0] + slope[:, 0, -1] - 200).abs().max() < 0.1
    assert 30 < (slope[:, 0, 0] - 100).abs().max() < 40.1
    noisy = _augment(batch * 0 + 100, speckle=0.3).std(dim=(1, 2, 3))
    assert noisy.min() < 5 < 20 < noisy.max() < 33
    dot = torch.zeros(200, 1, 33, 33)
    dot[:, :, 16, 16] = 255
    moved = _augment(dot, shift=0.25)[:, 0]
    row, column = moved.flatten(1).argmax(1) // 33 - 16, moved.flatten(1).argmax(1) % 33 - 16
    for distance in (row, column):
        assert 6 <= distance.abs().max() <= 9
    corner = torch.zeros(200, 1, 33, 33)
    corner[:, :, 16, 26] = 255
    turned = _augment(corner, rotation_degrees=45.0)[:, 0].flatten(1).argmax(1)
    angle = torch.rad2deg(torch.atan2((turned // 33 - 16).float(), (turned % 33 - 16).float()))
    assert 38 < angle.abs().max() < 50
    assert angle.abs().mean() > 10
    radius = _augment(corner, zoom=0.5)[:, 0].flatten(1).argmax(1) % 33 - 16
    assert radius.min() <= 7
    assert radius.max() >= 13


def _value(loss: LossFunction, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The loss of a batch from the losses and weights of its images."""
    return loss(logits, targets).sum() / loss.total_weight(targets)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_is_pytorchs(smoothing: float, weighted: bool) -> None:
    logits, labels = torch.randn(12, 3), torch.tensor([0, 1, 2] * 4)
    weights = torch.tensor([0.5, 1.0, 2.0]) if weighted else None
    loss = LossFunction("cross_entropy", label_smoothing=smoothing, class_weights=weights)
    computed = _value(loss, logits, F.one_hot(labels, 3).float())
    expected = F.cross_entropy(logits, labels, weight=weights, label_smoothing=smoothing)
    torch.testing.assert_close(computed, expected)


def test_focal_loss_by_hand() -> None:
    logits, labels = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    p = torch.softmax(logits, 1)[torch.arange(5), labels]
    expected = -((1 - p) ** 2 * p.log()).mean()
    targets = F.one_hot(labels, 2).float()
    computed = _value(LossFunction("focal"), logits, targets)
    torch.testing.assert_close(computed, expected)
    plain = _value(LossFunction("cross_entropy"), logits, targets)
    assert computed < plain
    torch.testing.assert_close(
        _value(LossFunction("focal", focal_gamma=0.0), logits, targets), plain
    )


def test_balanced_weights_are_scikit_learns() -> None:
    labels = torch.tensor([0] * 10 + [1] * 4 + [2] * 1)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels.numpy())
    torch.testing.assert_close(
        balanced_class_weights(labels, 3), torch.tensor(expected, dtype=torch.float32)
    )


def test_images_are_sampled_where_pytorchs_own_grid_says() -> None:
    matrix = torch.randn(5, 2, 3, generator=torch.Generator().manual_seed(0))
    expected = F.affine_grid(matrix, [5, 1, 7, 12], align_corners=False)
    assert torch.allclose(_sampling_grid(matrix, 7, 12), expected, atol=1e-6)
