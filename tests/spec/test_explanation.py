"""Every key of a study file is documented where it is defined, and `explain` shows it."""

import json
import re
import tomllib
from dataclasses import MISSING, fields

import pytest
from pydantic import BaseModel

from busi_search.errors import InputError
from busi_search.spec import (
    FROM_DATASET,
    Choice,
    DatasetSection,
    Gate,
    Hyperparameters,
    Range,
    StudySection,
    StudySpec,
)
from busi_search.spec.documentation import read_documentation
from busi_search.spec.explanation import all_keys, explain_key
from busi_search.spec.study import RecipeLabels
from busi_search.study_files import parse_spec
from busi_search.training.augment import AugmentationRanges
from tests.command import call_here, one_sentence

MODELS = (StudySpec, StudySection, DatasetSection, Hyperparameters, Gate, Range, Choice,
          RecipeLabels)  # fmt: skip
FIELDS = [(model, name) for model in MODELS for name in model.model_fields]
KEYS = [found.key for found in all_keys()]
# What a study must have besides the example of one of its keys.
BASE = {"dataset": {"source": "medmnist"}}


@pytest.mark.parametrize(("model", "name"), FIELDS, ids=[f"{m.__name__}.{n}" for m, n in FIELDS])
def test_every_field_is_documented(model: type[BaseModel], name: str) -> None:
    field = model.model_fields[name]
    documentation = read_documentation(field.description)
    sentence = documentation.meaning.split("\n\n")[0]
    assert re.match(r"[A-Z`]", sentence)
    assert sentence.endswith(".")
    assert len(sentence.split()) >= 5
    if not field.is_required():
        assert documentation.reason.endswith("."), "no reason for the default"
        assert len(documentation.reason.split()) >= 2
    if {int, float} & set(getattr(field.annotation, "__args__", [field.annotation])):
        assert documentation.unit, "a number without a unit"


def test_every_field_has_a_key() -> None:
    assert len(KEYS) == len(set(KEYS))
    named = {found.name for found in all_keys()}
    assert {name for _, name in FIELDS} <= named


@pytest.mark.parametrize("key", KEYS)
def test_every_key_is_explained(key: str) -> None:
    shown, data = call_here("explain", key), call_here("explain", key, "--json")
    assert shown.returncode == data.returncode == 0
    found = json.loads(data.stdout)
    assert found == explain_key(key).to_json()
    text = " ".join(shown.stdout.split())
    for part in (found["key"], found["meaning"], found["values"], found["unit"], found["reason"],
                 found["where"], found["example"]):  # fmt: skip
        assert " ".join(part.split()) in text
    assert max(map(len, shown.stdout.splitlines())) < 100


@pytest.mark.parametrize("key", KEYS)
def test_every_example_is_a_part_of_a_study_file(key: str) -> None:
    found = explain_key(key)
    example = tomllib.loads(found.example)
    is_searched_only = found.section == "hyperparameters" and found.default is None
    assert found.section in example or is_searched_only
    if found.section == "hyperparameters" and key != "hyperparameters":
        # One whose default is a rule is searched, and has no value to fix.
        assert (key in example.get("hyperparameters", {})) == (found.default is not None) or (
            key in FROM_DATASET
        )
        assert key in example["space"]
        # In one file a name is fixed or searched.
        fixed = example.pop("hyperparameters", {})
        parse_spec({**BASE, "hyperparameters": fixed}, origin="example")
    dataset = {**BASE["dataset"], **example.pop("dataset", {})}
    parse_spec({"dataset": dataset, **example}, origin="example")


def test_defaults_are_those_of_the_code() -> None:
    for model, section in ((StudySection, "study"), (DatasetSection, "dataset"), (Gate, "gate")):
        for name, field in model.model_fields.items():
            found = explain_key(f"{section}.{name}")
            assert found.required == field.is_required()
            if not found.required:
                default = field.default
                assert found.default == (list(default) if isinstance(default, tuple) else default)
    for name, default in Hyperparameters().model_dump().items():
        assert explain_key(name).default == (None if name in FROM_DATASET else default)


@pytest.mark.parametrize(
    ("key", "found"),
    [
        ("hyperparameters.dropout", "dropout"),
        ("space.dropout", "dropout"),
        ("recipe.dropout", "dropout"),
        ("pruner", "study.pruner"),
        ("groups", "dataset.groups"),
        ("max_ece", "gate.max_ece"),
        ("only_if", "space.only_if"),
        ("name", "recipe.name"),
        ("image_size_pixels", "image_size_pixels"),
        ("dataset.image_size_pixels", "dataset.image_size_pixels"),
    ],
)
def test_a_section_may_be_left_out_and_named(key: str, found: str) -> None:
    assert explain_key(key).key == found


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rte", "learning_rate"),
        ("study.prunr", "study.pruner"),
        ("gate.max_auc_drp", "gate.max_auc_drop"),
        ("spaces", "space"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key: str, nearest: str) -> None:
    done = call_here("explain", key)
    assert done.returncode == 2
    assert one_sentence(done)
    assert f"'{key}'" in done.stderr
    assert f"'{nearest}'" in done.stderr


@pytest.mark.parametrize(
    "key", ["", ".", "study.", ".pruner", "study.learning_rate", "\0", "x" * 300]
)
def test_no_key_at_all_is_one_sentence_too(key: str) -> None:
    with pytest.raises(InputError, match="No key"):
        explain_key(key)


def test_defaults_of_augmentation_stand_in_one_place() -> None:
    for field in fields(AugmentationRanges):
        assert field.default is MISSING
        assert field.name in Hyperparameters.model_fields
