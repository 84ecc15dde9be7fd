"""A search varies only what has an effect under the heads it tries."""

from pathlib import Path
from typing import Any

import pytest

from busi_search.errors import InputError
from busi_search.spec import StudySpec
from busi_search.study_files import load_spec

FROZEN = {"architecture": "efficientnet_lite0", "weights": "imagenet", "head": "logistic"}
STRENGTH = {"low": 0.01, "high": 1.0, "log": True}


def _spec(
    fixed: dict[str, Any] | None = None, space: dict[str, Any] | None = None, **more: Any
) -> StudySpec:
    return StudySpec.model_validate(
        {
            "dataset": {"source": "phantom"},
            "hyperparameters": FROZEN | (fixed or {}),
            "space": space or {},
            **more,
        }
    )


def test_a_solved_head_means_one_epoch_and_frozen_stages() -> None:
    resolved = _spec(space={"l2_strength": STRENGTH}).resolve({"l2_strength": 0.5})
    assert (resolved.epochs, resolved.freeze_depth, resolved.l2_strength) == (1, 5, 0.5)
    both = _spec({"head": "linear", "epochs": 7})
    assert both.resolve({}).epochs == 7
    assert both.resolve({"head": "logistic"}).epochs == 1


@pytest.mark.parametrize(
    "name", ["learning_rate", "dropout", "weight_decay", "freeze_depth", "epochs", "batch_size"]
)
def test_what_has_no_effect_is_not_searched(name: str) -> None:
    searched = {"low": 1, "high": 2} if name in ("freeze_depth", "epochs") else [0.1, 0.2]
    searched = [16, 32] if name == "batch_size" else searched
    wide = {"choices": searched} if isinstance(searched, list) else searched
    with pytest.raises(ValueError, match=rf"space\.{name} has no effect .* leave it out"):
        _spec(space={name: wide})
    heads = {"choices": ["linear", "logistic"]}
    with pytest.raises(ValueError, match=r'add only_if = \{ head = \["linear"\] \}'):
        _spec(space={name: wide, "head": heads})
    assert _spec(space={name: wide | {"only_if": {"head": ["linear"]}}, "head": heads})


def test_the_augmentation_needs_views_to_have_an_effect() -> None:
    space = {"augmentation_strength": {"low": 0.0, "high": 1.0}}
    with pytest.raises(ValueError, match="augmentation_views = 0"):
        _spec(space=space)
    assert _spec({"augmentation_views": 4}, space=space)


def test_the_strength_belongs_to_the_solved_head() -> None:
    with pytest.raises(ValueError, match=r"space\.l2_strength has an effect"):
        _spec({"head": "linear"}, space={"l2_strength": STRENGTH})
    heads = {"choices": ["linear", "logistic"]}
    with pytest.raises(ValueError, match=r"space\.l2_strength has an effect"):
        _spec(space={"head": heads, "l2_strength": STRENGTH})
    only = STRENGTH | {"only_if": {"head": ["logistic"]}}
    assert _spec(space={"head": heads, "l2_strength": only})


@pytest.mark.parametrize(
    ("fixed", "sentence"),
    [
        ({"weights": "none"}, "efficientnet_lite0 would have random ones"),
        ({"architecture": "small_cnn"}, "small_cnn would have random ones"),
        ({"pooling": "attention"}, "learns no pooling"),
        ({"mask_weight": 1.0}, "no second task"),
        ({"mixup_alpha": 0.2}, "whole labels"),
        ({"label_smoothing": 0.1}, "whole labels"),
        ({"loss": "focal"}, "whole labels"),
        ({"balanced_sampling": True}, "class_weighting"),
    ],
)
def test_what_contradicts_the_solved_head_is_refused(fixed: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        _spec(fixed)
    # Searched beside other heads it must be theirs alone.
    heads = {"choices": ["linear", "logistic"]}
    ((name, value),) = fixed.items()
    with pytest.raises(ValueError, match=sentence):
        _spec(space={"head": heads, name: {"choices": [value]}})
    if name not in ("architecture", "weights"):
        searched = {"choices": [value], "only_if": {"head": ["linear"]}}
        assert _spec(space={"head": heads, name: searched})
    with pytest.raises(ValueError, match=f"recipe known: .*{sentence}"):
        _spec({"head": "linear"}, recipe=[{"name": "known", "head": "logistic"} | fixed])


def test_tokens_have_one_pooling() -> None:
    heads = {"head": "linear", "architecture": "vit_b_16"}
    with pytest.raises(ValueError, match=r"vit_b_16 has one pooling.*pooling = \"avg\""):
        _spec(heads | {"pooling": "max"})
    space: dict[str, Any] = {
        "architecture": {"choices": ["vit_b_16", "resnet18"]},
        "feature_layers": {"low": 1, "high": 5},
    }
    with pytest.raises(ValueError, match="feature_layers = 1"):
        _spec(heads, space=space)
    space["feature_layers"]["only_if"] = {"architecture": ["resnet18"]}
    assert _spec(heads, space=space)


def test_a_mistake_in_a_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        '[dataset]\nsource = "phantom"\n[hyperparameters]\nhead = "logistic"\n'
        'architecture = "efficientnet_lite0"\nweights = "imagenet"\n[space]\ndropout = [0.0, 0.5]\n'
    )
    with pytest.raises(InputError, match=r'space\.dropout has no effect with head = "logistic"'):
        load_spec(str(path))
