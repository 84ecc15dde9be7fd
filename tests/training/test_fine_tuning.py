"""Fine-tuning: every hyperparameter does what it says, alone and beside the others."""

import copy
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from busi_search.architectures import ARCHITECTURES, WITHOUT_RESIDUAL_BLOCKS
from busi_search.data.folds import make_folds
from busi_search.errors import InputError
from busi_search.models.ensemble import FoldEnsemble
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import FoldResult, Look
from busi_search.seeding import seed_everything
from busi_search.spec import Hyperparameters
from busi_search.training.averaging import estimate_batch_norm
from busi_search.training.classifier import ImageClassifier
from busi_search.training.fit import EpochResult, SmallStart, fit_fold, make_optimizer
from busi_search.training.freezing import StageRates, freeze_backbone
from busi_search.training.from_hyperparameters import make_model, make_small_start
from busi_search.training.inputs import PixelInputs, shrink_pixels
from busi_search.training.losses import LossFunction
from busi_search.training.schedule import LearningRate, Schedule
from busi_search.training.stochastic_depth import set_stochastic_depth
from busi_search.training.zoo import build_model

NUM_IMAGES = 48


def _images(size: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    labels = np.arange(NUM_IMAGES) % 2
    images = rng.integers(0, 200, (NUM_IMAGES, 1, size, size)) + 40 * labels[:, None, None, None]
    return torch.from_numpy(images.astype(np.uint8)), torch.from_numpy(labels)


def _plain(images: torch.Tensor) -> PixelInputs:
    return PixelInputs(images, lambda pixels, targets, _: (pixels, targets), "cpu")


def _train(
    model: ImageClassifier,
    *,
    optimizer: torch.optim.Optimizer | None = None,
    epochs: int = 4,
    batch_size: int = 16,
    freeze_depth: int = 0,
    **options: object,
) -> list[tuple[EpochResult, dict[str, torch.Tensor]]]:
    """Train on images that nothing alters; return each epoch with the weights after it."""
    images, labels = _images()
    optimizer = optimizer or make_optimizer(model, "adam", learning_rate=1e-3, weight_decay=0)
    epochs_done = fit_fold(
        model,
        _plain(images),
        labels,
        train=np.arange(NUM_IMAGES),
        monitor=None,
        optimizer=optimizer,
        loss_function=LossFunction("cross_entropy"),
        schedule=Schedule("none"),
        epochs=epochs,
        batch_size=batch_size,
        freeze_depth=freeze_depth,
        balanced_sampling=False,
        seed=1,
        **options,  # type: ignore[arg-type]
    )
    return [(epoch, copy.deepcopy(model.state_dict())) for epoch in epochs_done]


def _largest_change(before: dict[str, torch.Tensor], model: nn.Module, part: str) -> float:
    return max(
        float((value - before[name]).abs().max())
        for name, value in model.named_parameters()
        if name.startswith(part)
    )


def test_each_stage_takes_steps_of_its_own_size() -> None:
    seed_everything(0)
    model = build_model("small_cnn", num_classes=2)
    before = copy.deepcopy(model.state_dict())
    optimizer = make_optimizer(
        model, "adam", learning_rate=1e-3, weight_decay=0, rates=StageRates(0.2, 0.5)
    )
    _train(model, optimizer=optimizer, epochs=1, batch_size=NUM_IMAGES)
    # The first step of Adam is the learning rate, whatever the gradient.
    expected = {"head.": 1e-3, "stages.2.": 2e-4, "stages.1.": 1e-4, "stages.0.": 5e-5}
    for part, rate in expected.items():
        assert _largest_change(before, model, part) == pytest.approx(rate, rel=0.02), part


def test_rates_of_one_are_the_groups_that_they_always_were() -> None:
    model = build_model("small_cnn", num_classes=2)
    one = make_optimizer(model, "adamw", learning_rate=1e-3, weight_decay=0.1)
    two = make_optimizer(model, "adamw", learning_rate=1e-3, weight_decay=0.1, rates=StageRates())
    assert len(one.param_groups) == len(two.param_groups) == 2
    freeze_backbone(model, 1)
    groups = make_optimizer(
        model, "adamw", learning_rate=1e-3, weight_decay=0.1, rates=StageRates(0.5)
    ).param_groups
    held = {id(p) for group in groups for p in group["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", ["cosine", "onecycle", "plateau", "none"])
@pytest.mark.parametrize("lowest", [0.0, 1e-4])
def test_schedules_keep_the_ratios_between_stages(name: str, lowest: float) -> None:
    model = build_model("small_cnn", num_classes=2)
    optimizer = make_optimizer(
        model, "sgd", learning_rate=1e-2, weight_decay=0, rates=StageRates(0.1, 0.5)
    )
    schedule = Schedule(name, warmup_epochs=1, min_learning_rate=lowest, plateau_patience=0)
    rate = LearningRate(optimizer, schedule, epochs=6, batches=5)
    head, *stages = [group for group in optimizer.param_groups if len(group["params"][0].shape) > 1]
    seen = []
    for _ in range(6):
        for _ in range(5):
            rate.before_step()
            optimizer.step()
            ratios = [group["lr"] / head["lr"] for group in stages]
            assert ratios == pytest.approx([0.025, 0.05, 0.1])
            rate.after_step()
        rate.after_epoch(1.0)
        seen.append(head["lr"])
    if name == "cosine":
        assert seen[-1] == pytest.approx(lowest, abs=1e-12)
        assert stages[0]["lr"] == pytest.approx(0.025 * lowest, abs=1e-12)
    if name == "plateau":
        assert seen[-1] < seen[1]


def test_the_head_learns_first_and_then_what_is_not_frozen() -> None:
    seed_everything(0)
    model = build_model("small_cnn", num_classes=2)
    freeze_backbone(model, 1)
    start = copy.deepcopy(model.state_dict())
    (first, one), (second, two), (third, three), _ = _train(
        model, freeze_depth=1, head_only_epochs=2
    )
    assert (first.beginning, second.beginning, third.beginning) == (True, True, False)
    for name, value in start.items():
        if name.startswith("stages.") and "num_batches" not in name:
            # Batch norm's statistics included.
            assert torch.equal(value, two[name]), name
            assert torch.equal(value, three[name]) == name.startswith("stages.0."), name
    assert not torch.equal(start["head.1.weight"], one["head.1.weight"])
    assert not torch.equal(one["head.1.weight"], two["head.1.weight"])


def test_the_last_epochs_are_averaged() -> None:
    seed_everything(0)
    model = build_model("small_cnn", num_classes=2)
    freeze_backbone(model, 1)
    twin = copy.deepcopy(model)
    averaged = _train(model, epochs=5, freeze_depth=1, average_last_epochs=3)
    plain = _train(twin, epochs=5, freeze_depth=1)
    assert [e.train_loss for e, _ in averaged] == [e.train_loss for e, _ in plain]
    for name, _ in model.named_parameters():
        mean = torch.stack([weights[name] for _, weights in plain[2:]]).mean(0)
        torch.testing.assert_close(averaged[-1][1][name], mean, rtol=1e-5, atol=1e-6)
    frozen = [n for n in averaged[-1][1] if n.startswith("stages.0.")]
    assert all(torch.equal(averaged[-1][1][n], plain[-1][1][n]) for n in frozen)
    # Batch norm's statistics are those of the averaged network: nothing alters the images here.
    images, _ = _images()
    twin.load_state_dict(averaged[-1][1])
    rng = torch.Generator().manual_seed(0)
    order = torch.randperm(NUM_IMAGES, generator=rng)
    inputs = _plain(images)
    estimate_batch_norm(
        twin, torch.split(order, 16), lambda batch: inputs.evaluate(twin, batch, views=False), 1
    )
    for name, value in twin.state_dict().items():
        if "running_mean" in name:
            # What reaches later layers depends on which images share a batch.
            error = 0.02 if name.startswith("stages.2.") else 1e-5
            torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=error)
            last = plain[-1][1][name]
            assert torch.equal(value, last) == name.startswith("stages.0."), name


def test_which_architectures_have_blocks_to_skip() -> None:
    with torch.device("meta"):
        for name in ARCHITECTURES:
            blocks = set_stochastic_depth(build_model(name, num_classes=2), 0.2)
            assert (blocks == 0) == (name in WITHOUT_RESIDUAL_BLOCKS), name


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet18", 8), ("tf_efficientnet_lite0", 9), ("convnext_atto", 12)]
)
def test_timms_networks_have_places_for_it(name: str, blocks: int) -> None:
    import timm

    seed_everything(0)
    net = timm.create_model(name, pretrained=False)
    assert set_stochastic_depth(net, 0.5) == blocks
    pixels = torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(net.eval()(pixels), net(pixels))
        for module in net.train().modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)  # timm's branches begin with nothing
        assert not torch.equal(net(pixels), net(pixels))


def test_residual_blocks_are_skipped_as_often_as_they_should() -> None:
    seed_everything(0)
    model = build_model("resnet18", num_classes=2)
    assert set_stochastic_depth(model, 0.4) == 8
    model.train()
    blocks = [m for m in model.stages.modules() if type(m).__name__ == "BasicBlock"]
    for number, block in enumerate(blocks, 1):
        rows: list[torch.Tensor] = []
        with torch.no_grad():
            # What the branch adds: batch norm of pure noise is never zero by itself.
            branch = block.bn2
            handle = branch.register_forward_hook(
                lambda _m, _i, output, rows=rows: rows.append(output.abs().sum((1, 2, 3)))
            )
            block(torch.rand(2000, block.conv1.in_channels, 2, 2))
            handle.remove()
        skipped = float((rows[0] == 0).float().mean())
        assert skipped == pytest.approx(0.4 * number / 8, abs=0.04)


def test_nothing_is_skipped_in_frozen_stages_predictions_and_batch_norms_statistics() -> None:
    seed_everything(0)
    plain = build_model("tiny_resnet", num_classes=2)
    model = copy.deepcopy(plain)
    assert set_stochastic_depth(model, 0.9) == 2
    images, _ = _images()
    inputs = _plain(images)
    batches = torch.split(torch.arange(NUM_IMAGES), 16)
    for net in (plain, model):
        estimate_batch_norm(
            net, batches, lambda batch, net=net: inputs.evaluate(net, batch, views=False), 0
        )
    pixels = images.float()
    with torch.no_grad():
        assert torch.equal(plain(pixels), model(pixels))
        model.train()
        assert not torch.equal(model(pixels), model(pixels))
        freeze_backbone(model, 3)
        model.head.eval()
        assert torch.equal(model(pixels), model(pixels))


def test_the_authors_stochastic_depth_is_kept_unless_another_is_asked_for() -> None:
    with torch.device("meta"):
        net = build_model("efficientnet_b0", num_classes=2)
    rates = [m.p for m in net.modules() if type(m).__name__ == "StochasticDepth"]
    assert max(rates) == pytest.approx(0.2 * 15 / 16)
    assert set_stochastic_depth(net, 0.0) == 9
    used = [m for m in net.modules() if getattr(m, "use_res_connect", False)]
    assert [m.stochastic_depth.p for m in used] == [0.0] * 9


def test_small_images_first_and_the_full_size_in_the_end() -> None:
    seed_everything(0)
    images, _ = _images()
    model = build_model("small_cnn", num_classes=2)
    sides: list[int] = []
    model.stages[0].register_forward_hook(lambda _m, inputs, _o: sides.append(inputs[0].shape[-1]))
    small = SmallStart(_plain(shrink_pixels(images, 20)), epochs=3)
    results = _train(model, epochs=4, small=small)
    assert sides == [20] * 9 + [32] * 3
    assert [epoch.beginning for epoch, _ in results] == [True] * 3 + [False]


def test_shrinking_keeps_what_images_show() -> None:
    gradient = torch.arange(32, dtype=torch.uint8).mul(8).expand(3, 1, 32, 32)
    shrunk = shrink_pixels(gradient, 16)
    assert shrunk.shape == (3, 1, 16, 16)
    assert shrunk.dtype == torch.uint8
    expected = gradient[..., ::2].float().add(4).mean(2)[:, :, None].expand_as(shrunk)
    assert (shrunk.float() - expected)[..., 1:-1].abs().max() <= 1


def test_networks_of_one_size_have_no_smaller_images() -> None:
    chosen = Hyperparameters(
        architecture="timm/vit_tiny_patch16_224", image_size_pixels=64, start_image_size_ratio=0.75
    )
    model = make_model(chosen, 2, None, "cpu")
    with pytest.raises(InputError, match="takes images of 64 px only"):
        make_small_start(model, _images(64)[0], chosen, None, "cpu")


FINE_TUNED = Hyperparameters(
    architecture="tiny_resnet",
    image_size_pixels=32,
    epochs=6,
    batch_size=16,
    freeze_depth=1,
    backbone_learning_rate_ratio=0.3,
    layer_decay=0.7,
    head_only_epochs=1,
    stochastic_depth=0.2,
    average_last_epochs=2,
    start_image_size_ratio=0.75,
    full_size_epochs=3,
    test_time_flip=True,
)


def _development() -> DevelopmentSet:
    images, labels = _images()
    known = labels.numpy()
    groups = np.arange(NUM_IMAGES)
    folds = make_folds(known, groups, num_folds=3, seed=0)
    return DevelopmentSet(images[:, 0].numpy(), known, groups, folds, 2, 1)


@pytest.mark.parametrize("views", [0, 2])
def test_all_together_trained_again_resumed_and_exported(tmp_path: Path, views: int) -> None:
    weights = tmp_path / "weights.pth"
    seed_everything(3)
    torch.save(build_model("tiny_resnet", num_classes=2).state_dict(), weights)
    chosen = FINE_TUNED.model_copy(update={"weights": str(weights), "augmentation_views": views})
    data = _development()

    def run(finished: dict[int, FoldResult] | None = None) -> list[Look | FoldResult]:
        steps = cross_validate(
            data, chosen, study_seed=0, trial_number=4, cache=tmp_path, finished=finished
        )
        return list(steps)

    steps = run()
    looks = [step for step in steps if isinstance(step, Look)]
    folds = [step for step in steps if isinstance(step, FoldResult)]
    # Nothing is given up while only the head learns, or on small images.
    assert {look.epoch for look in looks} == {4, 5}
    assert all(fold.val_epochs == (1, 2, 3, 4, 5, 6) for fold in folds)
    again = [step for step in run({0: folds[0]}) if isinstance(step, FoldResult)]
    for one, two in zip(folds, again, strict=True):
        np.testing.assert_array_equal(one.log_probabilities, two.log_probabilities)
    ensemble = FoldEnsemble([fold.model for fold in folds if fold.model is not None]).eval()
    pixels = _images()[0][:5].float()
    size = torch.export.Dim("batch", min=1)
    program = torch.export.export(ensemble, (pixels,), dynamic_shapes=({0: size},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    with torch.no_grad():
        torch.testing.assert_close(loaded(pixels), ensemble(pixels), rtol=1e-5, atol=1e-6)
