import numpy as np
import pytest
import torch
from torch.nn import functional as F

from busi_search.errors import InputError
from busi_search.training.fit import make_optimizer
from busi_search.training.freezing import freeze_backbone, parameter_groups, set_training_mode
from busi_search.training.zoo import ARCHITECTURES, build_model

SIZES = [28, 64]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_every_architecture_trains_a_step(architecture: str, size: int) -> None:
    model = build_model(architecture, num_classes=3, head="mlp", dropout=0.2)
    pixels = torch.randint(0, 256, (4, 1, size, size)).float()
    optimizer = make_optimizer(model, "adamw", learning_rate=1e-3, weight_decay=0.01)
    logits = model(pixels)
    assert logits.shape == (4, 3)
    F.cross_entropy(logits, torch.tensor([0, 1, 2, 0])).backward()
    before = [parameter.clone() for parameter in model.parameters()]
    optimizer.step()
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    assert np.mean(moved) > 0.9


@pytest.mark.parametrize("architecture", list(ARCHITECTURES))
def test_frozen_stages_do_not_move_at_any_depth(architecture: str) -> None:
    pixels = torch.randint(0, 256, (4, 1, 32, 32)).float()
    for depth in range(ARCHITECTURES[architecture].num_stages + 1):
        model = build_model(architecture, num_classes=2)
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
    decayed, others = parameter_groups(model, weight_decay=0.1)
    assert all(parameter.ndim > 1 for parameter in decayed["params"])
    assert all(parameter.ndim == 1 for parameter in others["params"])
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.1, 0.0)


def test_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(InputError, match="small_cnn"):
        build_model("resnet19", num_classes=2)
