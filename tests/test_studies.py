"""Every bundled study is sound, and every known system says what its source says."""

import pytest

from busi_search.errors import InputError
from busi_search.search.space import recipe_trials
from busi_search.spec import Hyperparameters
from busi_search.study_files import list_bundled, load_spec

RECIPES = [name for name in list_bundled() if name.startswith("recipes/")]


@pytest.mark.parametrize("name", list_bundled())
def test_every_bundled_study_loads(name: str) -> None:
    spec, text = load_spec(name)
    assert text.startswith("#")
    for parameters, attributes in recipe_trials(spec):
        assert set(parameters) <= set(spec.space)
        assert attributes["recipe"]


def test_there_is_a_recipe_for_every_known_system() -> None:
    assert [name.split("/")[1].split("-")[0] for name in RECIPES] == [
        "000", "001", "002", "003a", "003b", "004",
    ]  # fmt: skip


# What the sources state, and nothing that they left open.
STATED = {
    "000-frozen-resnet18": {
        "architecture": "resnet18", "weights": "imagenet", "freeze_depth": 5, "head": "mlp",
        "head_width": 128, "dropout": 0.85, "flip_horizontal": 0.3, "flip_vertical": 0.3,
        "rotation_degrees": 10.0, "shift": 0.1, "brightness": 0.1, "contrast": 0.1,
        "erasing": 0.3, "image_size_pixels": 256,
    },
    "001-resnet50-transfer": {
        "architecture": "resnet50", "weights": "imagenet", "head": "mlp", "optimizer": "adam",
        "loss": "cross_entropy", "image_size_pixels": 224, "scheduler": "plateau",
    },
    "002-breastmnist-resnet18": {"architecture": "resnet18_small", "loss": "focal"},
    "003a-custom-cnn": {
        "architecture": "small_cnn", "weights": "none", "normalisation": "imagenet",
        "optimizer": "adam", "epochs": 25, "image_size_pixels": 224, "loss": "cross_entropy",
    },
    "003b-resnet50": {
        "architecture": "resnet50", "weights": "imagenet", "head": "linear", "optimizer": "adam",
        "epochs": 25, "image_size_pixels": 224,
    },
    "004-balanced-resnet50": {
        "architecture": "resnet50", "optimizer": "adamw", "learning_rate": 1e-3,
        "weight_decay": 0.01, "batch_size": 32, "epochs": 80, "class_weighting": "balanced",
        "balanced_sampling": True, "scheduler": "plateau", "plateau_factor": 0.5,
        "plateau_patience": 5, "min_learning_rate": 1e-5, "early_stopping_patience": 10,
        "image_size_pixels": 224, "flip_horizontal": 0.5, "rotation_degrees": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_its_sources_settings(name: str) -> None:
    resolved = load_spec(name)[0].resolve({}).model_dump()
    for key, value in STATED[name.removeprefix("recipes/")].items():
        assert resolved[key] == value, key


def test_what_a_study_fixes_holds_for_its_recipes() -> None:
    named = 'recipes=["recipes/000-frozen-resnet18","recipes/004-balanced-resnet50"]'
    spec, _ = load_spec("breastmnist", (named,))
    trials = {a["recipe"]: Hyperparameters(**a["recipe_settings"]) for _, a in recipe_trials(spec)}
    balanced = trials["004-balanced-resnet50"]
    assert (balanced.architecture, balanced.balanced_sampling) == ("resnet50", True)
    assert (balanced.image_size_pixels, balanced.weights) == (28, "none")
    assert balanced.epochs == spec.study.recipe_epochs
    # Nothing pretrained, nothing to freeze.
    assert trials["000-frozen-resnet18"].freeze_depth == 0
    assert load_spec("busi")[0].recipe[1]["freeze_depth"] == 5


def test_recipes_may_be_bounded_on_their_own() -> None:
    named = 'recipes=["recipes/003a-custom-cnn","recipes/004-balanced-resnet50"]'
    spec, _ = load_spec("breastmnist", ("epochs=99", "study.recipe_epochs=28", named))
    epochs = {a["recipe"]: a["recipe_settings"]["epochs"] for _, a in recipe_trials(spec)}
    assert epochs["003a-custom-cnn"] == 25
    assert epochs["004-balanced-resnet50"] == 28
    assert spec.resolve({}).epochs == 99


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(InputError, match="recipes/000-frozen-resnet"):
        load_spec("busi", ('study.recipes=["recipes/000-frozen-resnet"]',))
