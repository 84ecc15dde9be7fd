"""Every bundled study is sound, and every known system says what its source says."""

from pathlib import Path

import numpy as np
import pytest

from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.search.prepare import prepare_study
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
    assert load_spec("busi-scratch", (named,))[0].recipe[0]["freeze_depth"] == 5


def test_recipes_may_be_bounded_on_their_own() -> None:
    named = 'recipes=["recipes/003a-custom-cnn","recipes/004-balanced-resnet50"]'
    spec, _ = load_spec("breastmnist", ("epochs=99", "study.recipe_epochs=28", named))
    epochs = {a["recipe"]: a["recipe_settings"]["epochs"] for _, a in recipe_trials(spec)}
    assert epochs == {
        "003a-custom-cnn": 25,
        "004-balanced-resnet50": 28,
        "medmnist-baseline": 10,
    }
    assert spec.resolve({}).epochs == 99


def test_the_bound_holds_for_a_studys_own_recipes_too(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        "[study]\nrecipe_epochs = 5\n[dataset]\nsource = 'phantom'\n"
        "[hyperparameters]\nepochs = 8\n"
        "[[recipe]]\nname = 'long'\nepochs = 7\n[[recipe]]\nname = 'short'\nepochs = 2\n"
        "[[recipe]]\nname = 'silent'\n"
    )

    def epochs(*overrides: str) -> list[int]:
        spec, _ = load_spec(str(path), overrides)
        return [settings["epochs"] for settings in spec.recipe_settings()]

    assert epochs() == [5, 2, 5]
    assert epochs("epochs=3") == [5, 2, 3]


def test_a_missing_recipe_is_named() -> None:
    with pytest.raises(InputError, match="recipes/000-frozen-resnet"):
        load_spec("busi", ('study.recipes=["recipes/000-frozen-resnet"]',))


def test_configurations_are_all_that_a_search_or_a_recipe_may_take(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        '[dataset]\nsource = "phantom"\n'
        '[space]\nimage_size_pixels = [28, 64]\narchitecture = ["small_cnn", "resnet18"]\n'
        "dropout = {low = 0.1, high = 0.4}\n"
        '[[recipe]]\nname = "large"\nimage_size_pixels = 96\n'
    )
    spec, _ = load_spec(str(path))
    found = [(c.image_size_pixels, c.architecture) for c in spec.configurations(
        "image_size_pixels", "architecture", "epochs"
    )]  # fmt: skip
    own = spec.resolve({}).architecture
    pairs = [(28, "small_cnn"), (28, "resnet18"), (64, "small_cnn"), (64, "resnet18")]
    assert found == [*pairs, (96, own)]
    assert [c.dropout for c in spec.configurations("dropout")][:2] == [0.1, 0.4]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [('weights = "absent.safetensors"', r"absent\.safetensors"), ("mask_weight = 1.0", "masks")],
)
def test_what_a_recipe_needs_is_checked_before_the_search(
    setting: str, sentence: str, home: Home, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        f"{part}_images": rng.integers(0, 256, (30, 28, 28), dtype=np.uint8)
        for part in ("train", "val", "test")
    }
    labels = {f"{part}_labels": (np.arange(30) % 2)[:, None] for part in ("train", "val", "test")}
    np.savez(tmp_path / "breastmnist.npz", **arrays, **labels)
    path = tmp_path / "study.toml"
    path.write_text(
        f'[dataset]\nsource = "medmnist"\npath = "{tmp_path / "breastmnist.npz"}"\n'
        '[hyperparameters]\narchitecture = "small_cnn"\nimage_size_pixels = 28\n'
        f'[[recipe]]\nname = "known"\n{setting}\n'
    )
    with pytest.raises(InputError, match=sentence):
        prepare_study(str(path), home=home, device="cpu")
