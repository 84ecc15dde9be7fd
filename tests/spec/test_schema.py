"""The JSON Schema of study files agrees with what the program reads."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from busi_search.errors import InputError
from busi_search.spec import FROM_DATASET, Hyperparameters
from busi_search.spec.schema import DIALECT, study_schema
from busi_search.study_files import find_study_file, list_bundled, parse_spec
from tests.command import call_here

SCHEMA = study_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
BUSI = {"dataset": {"source": "busi"}}


def _read(raw: dict[str, Any]) -> bool:
    """Whether the program takes a study file."""
    try:
        parse_spec(raw, origin="study.toml")
    except InputError:
        return False
    return True


def test_it_is_a_schema_of_its_draft() -> None:
    assert SCHEMA["$schema"] == DIALECT
    Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("name", list_bundled())
def test_every_bundled_study_is_valid(name: str) -> None:
    raw = tomllib.loads(find_study_file(name).read_text())
    assert [error.message for error in VALIDATOR.iter_errors(raw)] == []


@pytest.mark.parametrize(
    "raw",
    [
        {**BUSI, "space": {"dropout": [0.1, 0.2], "architecture": ["small_cnn", "resnet18"]}},
        {**BUSI, "space": {"dropout": {"choices": [0.1]}}},
        {**BUSI, "space": {"dropout": {"low": 0, "high": 0.5, "step": 0.1}}},
        {**BUSI, "space": {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}},
        {
            **BUSI,
            "space": {
                "freeze_depth": {
                    "low": 0,
                    "high": 5,
                    "only_if": {"weights": ["imagenet", "file", "own.pth"]},
                },
                "head_width": {"choices": [64], "only_if": {"head": ["mlp"], "dropout": [0.1]}},
            },
        },
        {**BUSI, "study": {"objective": ["cv_auc", "num_parameters"], "recipe_epochs": 5}},
        {**BUSI, "study": {"objective": "cv_f1", "further_objectives": ["latency_ms"]}},
        {"dataset": {"source": "medmnist", "test": "official", "class_names": ["a", "b"]}},
        {**BUSI, "hyperparameters": {"weights": "radimagenet.pth", "learning_rate": 1}},
        {**BUSI, "recipe": [{"name": "known", "reported": "AUC 0.9", "epochs": 3}, {}]},
        {**BUSI, "gate": {"min_sensitivity": 0.9}},
    ],
)
def test_what_the_program_reads_is_valid(raw: dict[str, Any]) -> None:
    assert _read(raw)
    assert [error.message for error in VALIDATOR.iter_errors(raw)] == []


@pytest.mark.parametrize(
    "raw",
    [
        {},
        {"dataset": {}},
        {"dataset": {"source": "busy"}},
        {"dataset": {"source": "busi", "pth": "x"}},
        {"dataset": {"source": "busi", "num_folds": 1}},
        {"dataset": {"source": "busi", "test": 0.6}},
        {"dataset": {"source": "busi", "test": "offical"}},
        {**BUSI, "stdy": {}},
        {**BUSI, "study": {"sampler": "tpo"}},
        {**BUSI, "study": {"objective": "auc"}},
        {**BUSI, "study": {"objective": ["num_parameters", "cv_auc"]}},
        {**BUSI, "study": {"objective": ["cv_auc", "cv_auc"]}},
        {**BUSI, "study": {"objective": []}},
        {**BUSI, "study": {"recipe_epochs": 0}},
        {**BUSI, "hyperparameters": {"epoch": 3}},
        {**BUSI, "hyperparameters": {"epochs": 0}},
        {**BUSI, "hyperparameters": {"epochs": 2.5}},
        {**BUSI, "hyperparameters": {"dropout": 1.0}},
        {**BUSI, "hyperparameters": {"architecture": "resnet19"}},
        {**BUSI, "hyperparameters": {"optimizer": ["adam"]}},
        {**BUSI, "space": {"learning_rte": [0.1]}},
        {**BUSI, "space": {"dropout": 0.3}},
        {**BUSI, "space": {"dropout": []}},
        {**BUSI, "space": {"dropout": [0.1, 7]}},
        {**BUSI, "space": {"dropout": {"choices": []}}},
        {**BUSI, "space": {"dropout": {"choices": [0.1], "low": 0, "high": 0.5}}},
        {**BUSI, "space": {"dropout": {"low": 0.1}}},
        {**BUSI, "space": {"dropout": {"low": 0.1, "high": 7}}},
        {**BUSI, "space": {"dropout": {"low": 0.1, "high": 0.5, "lg": True}}},
        {**BUSI, "space": {"dropout": {"low": 0.1, "high": 0.5, "log": True, "step": 0.1}}},
        {**BUSI, "space": {"dropout": {"low": 0.1, "high": 0.5, "only_if": {"wights": ["none"]}}}},
        {**BUSI, "space": {"dropout": {"low": 0.1, "high": 0.5, "only_if": {"weights": "none"}}}},
        {**BUSI, "space": {"optimizer": {"low": 0, "high": 1}}},
        {**BUSI, "recipe": {"name": "not a list"}},
        {**BUSI, "recipe": [{"learning_rte": 1}]},
        {**BUSI, "gate": {"max_ece": 2}},
        {**BUSI, "operating_point": {"rule": "accuracy"}},
        {**BUSI, "operating_point": {"at_least": 1}},
    ],
)
def test_what_the_program_refuses_is_invalid(raw: dict[str, Any]) -> None:
    assert not _read(raw)
    assert not VALIDATOR.is_valid(raw)


def test_every_key_has_a_description_and_a_default_that_is_valid() -> None:
    sections = SCHEMA["properties"]
    for name in ("study", "dataset", "gate", "operating_point", "about"):
        for key, schema in sections[name]["properties"].items():
            assert schema["description"], key
            assert "default" not in schema or Draft202012Validator(schema).is_valid(
                schema["default"]
            )
    defined = SCHEMA["$defs"]["hyperparameters"]
    assert set(defined) == set(Hyperparameters.model_fields)
    for key, schema in defined.items():
        assert schema["description"], key
        assert key in (*FROM_DATASET, "stochastic_depth") or Draft202012Validator(schema).is_valid(
            schema["default"]
        )
        assert sections["space"]["properties"][key]["description"], key
    for name in sections:
        assert sections[name]["description"], name


def test_no_table_takes_an_unknown_key() -> None:
    def look(schema: Any, place: str) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                # The words of this one are those of the user's table.
                free = {"type": "string"} if place.endswith(("/columns", "/map")) else False
                assert schema["additionalProperties"] == free, place
            for key, part in schema.items():
                look(part, f"{place}/{key}")
        elif isinstance(schema, list):
            for part in schema:
                look(part, place)

    look(SCHEMA, "#")


def test_the_command_prints_it_and_touches_no_home(tmp_path: Path) -> None:
    done = call_here("--home", tmp_path / "home", "studies", "--schema")
    assert done.returncode == 0
    assert json.loads(done.stdout) == SCHEMA
    assert not (tmp_path / "home").exists()
