from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from busi_search.seeding import seed_everything
from busi_search.training.classifier import ImageClassifier
from busi_search.training.fit import (
    EpochResult,
    _batches,
    _epoch_order,
    fit_fold,
    make_optimizer,
    predict_log_probabilities,
)
from busi_search.training.freezing import freeze_backbone
from busi_search.training.gradients import accumulate_gradients
from busi_search.training.inputs import PixelInputs
from busi_search.training.losses import LossFunction
from busi_search.training.schedule import Schedule
from busi_search.training.zoo import build_model


def _problem(num_images: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    """Bright squares against dark ones: learnable in seconds."""
    rng = np.random.default_rng(0)
    labels = np.arange(num_images) % 2
    images = rng.integers(0, 120, (num_images, 1, 28, 28)) + 100 * labels[:, None, None, None]
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)


def _pixels(images: torch.Tensor) -> PixelInputs:
    """Images that nothing alters."""
    return PixelInputs(images, lambda pixels, targets, _: (pixels, targets), "cpu")


def _probabilities(model: ImageClassifier, images: torch.Tensor, indices: np.ndarray) -> np.ndarray:
    return np.exp(predict_log_probabilities(model, _pixels(images), indices))


def _fit(
    schedule: Schedule,
    *,
    epochs: int = 4,
    learning_rate: float = 3e-3,
    monitor: bool = False,
    weight_averaging: float = 0.0,
) -> tuple[list[EpochResult], ImageClassifier, torch.Tensor]:
    seed_everything(0)
    images, labels = _problem()
    model = build_model("small_cnn", num_classes=2)
    results = fit_fold(
        model,
        _pixels(images),
        labels,
        train=np.arange(48),
        monitor=np.arange(48, 60) if monitor else None,
        optimizer=make_optimizer(model, "adam", learning_rate=learning_rate, weight_decay=0),
        loss_function=LossFunction("cross_entropy"),
        schedule=schedule,
        epochs=epochs,
        batch_size=16,
        freeze_depth=0,
        balanced_sampling=False,
        seed=1,
        weight_averaging=weight_averaging,
    )
    return list(results), model, images


def test_it_learns_and_is_repeatable() -> None:
    results, model, images = _fit(Schedule("none"), epochs=5)
    assert results[-1].train_loss < 0.5 * results[0].train_loss
    probabilities = _probabilities(model, images, np.arange(60))
    assert (probabilities.argmax(1) == np.arange(60) % 2).mean() > 0.95
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    again, twin, _ = _fit(Schedule("none"), epochs=5)
    assert [r.train_loss for r in again] == [r.train_loss for r in results]
    for one, two in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, two)


def test_schedules_move_the_learning_rate_as_named() -> None:
    rates = {
        name: [r.learning_rate for r in _fit(Schedule(name))[0]]
        for name in ("none", "cosine", "onecycle")
    }
    assert rates["none"] == [3e-3] * 4
    assert rates["cosine"] == sorted(rates["cosine"], reverse=True)
    assert rates["cosine"][-1] == pytest.approx(0, abs=1e-9)
    assert max(rates["onecycle"]) == pytest.approx(rates["onecycle"][0], rel=0.5)
    assert rates["onecycle"][-1] < 0.05 * max(rates["onecycle"])


def test_the_rate_rises_evenly_over_the_warm_up() -> None:
    for name in ("none", "cosine", "plateau"):
        schedule = Schedule(name, warmup_epochs=2)
        rates = [r.learning_rate for r in _fit(schedule, monitor=name == "plateau")[0]]
        assert rates[0] == pytest.approx(1.5e-3)
        assert rates[1] == pytest.approx(3e-3)
        assert (rates[3] < 3e-3) == (name == "cosine")
    floor = [r.learning_rate for r in _fit(Schedule("cosine", min_learning_rate=1e-3))[0]]
    assert floor[-1] == pytest.approx(1e-3)


def test_averaged_weights_lag_behind_and_do_not_disturb_training() -> None:
    plain, model, _ = _fit(Schedule("none"), epochs=4)
    averaged, smooth, _ = _fit(Schedule("none"), epochs=4, weight_averaging=0.9)
    assert [r.train_loss for r in averaged] == [r.train_loss for r in plain]
    fast, slow = model.head[1].weight, smooth.head[1].weight
    seed_everything(0)
    start = build_model("small_cnn", num_classes=2).head[1].weight
    assert 0 < (slow - start).norm() < (fast - start).norm()


@pytest.mark.parametrize("freeze_depth", [0, 1])
def test_batch_norm_can_be_fitted_to_images_as_they_are(freeze_depth: int) -> None:
    images, labels = _problem()
    train = np.arange(48)

    def trained(precise: bool) -> ImageClassifier:
        seed_everything(0)
        model = build_model("small_cnn", num_classes=2)
        freeze_backbone(model, freeze_depth)
        for _ in fit_fold(
            model,
            PixelInputs(images, lambda pixels, targets, _: (pixels / 2, targets), "cpu"),
            labels,
            train=train,
            monitor=None,
            optimizer=make_optimizer(model, "adam", learning_rate=3e-3, weight_decay=0),
            loss_function=LossFunction("cross_entropy"),
            schedule=Schedule("none"),
            epochs=3,
            batch_size=48,
            freeze_depth=freeze_depth,
            balanced_sampling=False,
            seed=1,
            precise_batch_norm=precise,
        ):
            pass
        return model

    darkened, precise = trained(False), trained(True)
    for one, two in zip(darkened.parameters(), precise.parameters(), strict=True):
        assert torch.equal(one, two)
    before, norm = darkened.stages[0][2], precise.stages[0][2]
    if freeze_depth:
        assert torch.equal(norm.running_mean, before.running_mean)
        return
    with torch.no_grad():
        pooled = precise.stages[0][:2](precise.normalise(images[train].float()))
    torch.testing.assert_close(norm.running_mean, pooled.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(norm.running_var, pooled.var(dim=(0, 2, 3)))
    assert not torch.allclose(before.running_mean, norm.running_mean, rtol=0.1)
    assert norm.momentum == 0.1
    assert not any(module.training for module in precise.modules())


def test_batch_norm_is_fitted_to_batches_that_hold_every_class() -> None:
    """The files of a class follow each other; a batch of one class knows nothing of the other."""
    seed_everything(0)
    labels = torch.arange(64) // 32
    grey = labels[:, None, None, None] * 120 + torch.randint(0, 60, (64, 1, 16, 16))
    images = grey.to(torch.uint8)
    model = build_model("small_cnn", num_classes=2)
    train = np.arange(64)
    for _ in fit_fold(
        model,
        PixelInputs(images, lambda pixels, targets, _: (pixels, targets), "cpu"),
        labels,
        train=train,
        monitor=None,
        optimizer=make_optimizer(model, "sgd", learning_rate=0.0, weight_decay=0),
        loss_function=LossFunction("cross_entropy"),
        schedule=Schedule("none"),
        epochs=1,
        batch_size=16,
        freeze_depth=0,
        balanced_sampling=False,
        seed=1,
        precise_batch_norm=True,
    ):
        pass
    with torch.no_grad():
        rows = model.stages[0][:2](model.normalise(images.float()))
    together, of_one_class = rows.var(dim=(0, 2, 3)), rows[:32].var(dim=(0, 2, 3))
    found = model.stages[0][2].running_var
    assert (of_one_class / together).mean() < 0.4
    assert (found / together).mean() > 0.8


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_are_the_named_ones_and_decay_as_they_should(name: str) -> None:
    """Without a gradient, Adam takes decay for one, AdamW and SGD shrink the weights by it."""
    model = build_model("small_cnn", num_classes=2)
    optimizer = make_optimizer(model, name, learning_rate=1e-3, weight_decay=0.5)
    assert type(optimizer).__name__.lower() == name
    weight = model.head[1].weight
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = weight.detach().clone()
    optimizer.step()
    moved = (before - weight.detach()) * before.sign()
    if name == "adam":
        # The first step is the learning rate in every direction, whatever the size of the weight.
        assert moved.median() == pytest.approx(1e-3, rel=0.01)
    else:
        nesterov = 1.9 if name == "sgd" else 1.0
        torch.testing.assert_close(moved, before.abs() * 5e-4 * nesterov, rtol=1e-2, atol=1e-7)


class _ShortOfMemory(nn.Module):
    """A network that only takes a few images at once."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self.inner, self.limit, self.sizes = nn.Linear(16, 3), limit, list[int]()

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, None]:
        self.sizes.append(len(pixels))
        if len(pixels) > self.limit:
            raise torch.OutOfMemoryError("no memory")
        return self.inner(pixels.flatten(1)), None


@pytest.mark.parametrize("weighted", [False, True])
def test_out_of_memory_halves_the_pieces_and_keeps_the_gradients(weighted: bool) -> None:
    seed_everything(0)
    model = _ShortOfMemory(limit=100)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    pixels, labels = torch.rand(13, 1, 4, 4), torch.arange(13) % 3
    targets = nn.functional.one_hot(labels, 3).float()
    weights = torch.tensor([0.2, 1.0, 5.0]) if weighted else None
    loss = LossFunction("cross_entropy", class_weights=weights)
    whole, size = accumulate_gradients(model, optimizer, loss, pixels, targets, 13)
    assert size == 13
    expected = model.inner.weight.grad.clone()
    model.limit, model.sizes = 4, []
    pieces, size = accumulate_gradients(model, optimizer, loss, pixels, targets, 13)
    assert size == 4
    assert model.sizes == [13, 7, 4, 3, 3, 3]
    torch.testing.assert_close(pieces, whole)
    torch.testing.assert_close(model.inner.weight.grad, expected)
    model.limit = 0
    with pytest.raises(torch.OutOfMemoryError):
        accumulate_gradients(model, optimizer, loss, pixels, targets, size)


def test_predictions_survive_short_memory_too(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = _problem()
    model = build_model("small_cnn", num_classes=2)
    expected = _probabilities(model, images, np.arange(60))
    classify = model.classify

    def short(pixels: torch.Tensor) -> torch.Tensor:
        if len(pixels) > 10:
            raise torch.OutOfMemoryError("no memory")
        return classify(pixels)

    monkeypatch.setattr(model, "classify", short)
    found = _probabilities(model, images, np.arange(60))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_plateau_halves_after_patience_down_to_the_floor() -> None:
    schedule = Schedule("plateau", plateau_patience=0, min_learning_rate=2e-3)
    results, _, _ = _fit(schedule, epochs=8, learning_rate=1e-2, monitor=True)
    rates = [r.learning_rate for r in results]
    assert min(rates) >= 2e-3
    for before, after in pairwise(rates):
        assert after == before or after == pytest.approx(max(before / 2, 2e-3))


def test_early_stopping_stops_and_returns_to_the_best_epoch() -> None:
    schedule = Schedule("none", early_stopping_patience=2)
    results, model, images = _fit(schedule, epochs=60, learning_rate=3e-2, monitor=True)
    losses = [r.monitor_loss for r in results]
    assert results[-1].stopped
    assert len(results) < 60
    best = int(np.argmin(losses))
    assert len(losses) - 1 - best == 2
    inner = _probabilities(model, images, np.arange(48, 60))
    loss = -np.log(inner[np.arange(12), np.arange(48, 60) % 2]).mean()
    assert loss == pytest.approx(losses[best], rel=1e-3)


def test_no_batch_of_one_and_every_image_once() -> None:
    order = torch.randperm(33)
    batches = list(_batches(order, 16))
    assert [len(batch) for batch in batches] == [16, 17]
    assert torch.equal(torch.cat(batches), order)


def test_balanced_sampling_evens_the_classes() -> None:
    labels = torch.tensor([0] * 900 + [1] * 100)
    generator = torch.Generator().manual_seed(0)
    drawn = _epoch_order(np.arange(1000), labels, True, generator)
    assert 0.4 < labels[drawn].float().mean() < 0.6
    plain = _epoch_order(np.arange(1000), labels, False, generator)
    assert torch.equal(plain.sort().values, torch.arange(1000))
