from pathlib import Path

import pytest

from busi_search.errors import InputError
from busi_search.spec import spec_json
from busi_search.study_files import list_bundled, load_spec, parse_spec

BASE = {"dataset": {"source": "busi"}}


@pytest.mark.parametrize("name", list_bundled())
def test_every_bundled_study_loads(name: str) -> None:
    spec, text = load_spec(name)
    assert text.strip()
    if name.startswith("recipes/"):
        assert not spec.space
        return
    searched = set(spec.space)
    if spec.hyperparameters.get("head") == "logistic":
        assert {"l2_strength", "feature_layers", "pooling"} <= searched
        return
    assert {"learning_rate", "dropout", "freeze_depth", "architecture"} <= searched
    assert "augmentation_strength" in searched


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({**BASE, "space": {"learning_rte": [1]}}, ["learning_rte", "learning_rate"]),
        ({"dataset": {"source": "busi", "pth": "x"}}, ["dataset.pth", "path"]),
        ({**BASE, "hyperparameters": {"epoch": 3}}, ["epoch", "epochs"]),
        ({**BASE, "space": {"dropout": {"low": 0.5, "high": 0.1}}}, ["dropout", "low"]),
        ({**BASE, "space": {"dropout": {"low": 0.5, "high": 7.0}}}, ["dropout", "7.0"]),
        ({**BASE, "space": {"learning_rate": {"low": 0, "high": 1.0, "log": True}}}, ["log"]),
        ({**BASE, "space": {"dropout": 3}}, ["space"]),
        ({**BASE, "space": {"dropout": []}}, ["dropout"]),
        ({**BASE, "study": {"objective": "auc"}}, ["cv_auc"]),
        ({**BASE, "study": {"sampler": "tpo"}}, ["sampler", "tpe"]),
        ({"dataset": {"source": "busy"}}, ["source", "busi"]),
        ({"dataset": {"source": "busi", "test": "official"}}, ["official"]),
        ({}, ["dataset"]),
        ({**BASE, "recipe": [{"name": "a", "learning_rte": 1}]}, ["recipe a", "learning_rate"]),
        ({**BASE, "hyperparameters": {"learning_rate": float("nan")}}, ["learning_rate"]),
    ],
)
def test_bad_studies_are_refused_in_one_sentence(raw: dict, words: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        parse_spec(raw, origin="my.toml")
    message = str(caught.value)
    assert message.startswith("my.toml")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_overrides_replace_fixed_and_searched_values() -> None:
    spec, text = load_spec("quickstart", ("epochs=3", "dropout=0.1", "dataset.num_folds=3"))
    assert spec.resolve({}).epochs == 3
    assert "dropout" not in spec.space
    assert spec.resolve({}).dropout == 0.1
    assert spec.dataset.num_folds == 3
    assert "--set epochs=3" in text


def test_an_override_may_be_a_range() -> None:
    spec, _ = load_spec("quickstart", ("epochs={low=2,high=4}",))
    assert "epochs" in spec.space


@pytest.mark.parametrize("override", ["epochs", "epoch=3", "study.epochs=3", "=3", "epochs=many"])
def test_bad_overrides(override: str) -> None:
    with pytest.raises(InputError):
        load_spec("quickstart", (override,))


def test_unknown_study_names_the_nearest() -> None:
    with pytest.raises(InputError, match="quickstart"):
        load_spec("quikstart")


def test_a_file_that_is_not_toml(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text("[study\n")
    with pytest.raises(InputError, match=r"x\.toml"):
        load_spec(str(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"x\.toml"):
        load_spec(str(path))


def test_spec_json_is_canonical() -> None:
    one, _ = load_spec("quickstart")
    two, _ = load_spec("quickstart")
    other, _ = load_spec("quickstart", ("seed=1",))
    assert spec_json(one) == spec_json(two) != spec_json(other)
