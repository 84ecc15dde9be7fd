"""A JSON Schema of study files, by which a TOML editor completes and checks them."""

from typing import Any

from pydantic import BaseModel

from busi_search.spec.about import About
from busi_search.spec.dataset_section import DatasetSection
from busi_search.spec.documentation import read_documentation
from busi_search.spec.gate import Gate
from busi_search.spec.hyperparameters import Hyperparameters
from busi_search.spec.operating_point import OperatingRule
from busi_search.spec.several_sources import SourceEntry
from busi_search.spec.space import Choice, Range
from busi_search.spec.study import RecipeLabels, StudySpec
from busi_search.spec.study_section import StudySection

Schema = dict[str, Any]

# Keys that hold a list of tables, and what one of these is.
_TABLES: dict[str, type[BaseModel]] = {"sources": SourceEntry}
_HOLDERS = (DatasetSection,)
DIALECT = "https://json-schema.org/draft/2020-12/schema"


def study_schema() -> Schema:
    """Return a JSON Schema (draft 2020-12) of a study file.

    It knows every key with its description, values and default. Rules between keys (such as
    ``low`` below ``high``) are checked when the study is read.
    """
    hyperparameters = field_schemas(Hyperparameters)
    references = {name: _reference("hyperparameters", name) for name in hyperparameters}
    searched = {name: _searched(name, schema) for name, schema in hyperparameters.items()}
    sections: dict[str, Schema] = {
        "study": _table(field_schemas(StudySection)),
        "dataset": _table(field_schemas(DatasetSection), required=["source"]),
        "hyperparameters": _table(references),
        "space": _table(searched),
        "recipe": {
            "type": "array",
            "items": _table({**field_schemas(RecipeLabels), **references}),
        },
        "gate": _table(field_schemas(Gate)),
        "operating_point": _table(field_schemas(OperatingRule)),
        "about": _table(field_schemas(About)),
    }
    described = {
        name: {"description": read_documentation(field.description).summary, **sections[name]}
        for name, field in StudySpec.model_fields.items()
    }
    return {
        "$schema": DIALECT,
        "title": "busi-search study",
        **_table(described, required=["dataset"]),
        "$defs": {"hyperparameters": hyperparameters, "only_if": _condition(references)},
    }


def field_schemas(model: type[BaseModel]) -> dict[str, Schema]:
    """Return the JSON Schema of each field of a model."""
    properties = model.model_json_schema()["properties"]
    tables = {name: _entry(table) for name, table in _TABLES.items()} if model in _HOLDERS else {}
    return {
        name: {
            "description": read_documentation(field.description).summary,
            **_plain(properties[name]),
            **tables.get(name, {}),
        }
        for name, field in model.model_fields.items()
    }


def _entry(model: type[BaseModel]) -> Schema:
    """The schema of a list of tables."""
    fields = model.model_fields
    required = [name for name, field in fields.items() if field.is_required()]
    return {"items": _table(field_schemas(model), required=required)}


def _plain(schema: Schema) -> Schema:
    """Leave out pydantic's title and text, and null, which TOML does not have."""
    kept = {key: part for key, part in schema.items() if key not in ("title", "description")}
    if kept.get("default", ...) is None:
        del kept["default"]
    parts = [part for part in kept.pop("anyOf", []) if part != {"type": "null"}]
    if len(parts) == 1:
        return {**kept, **parts[0]}
    return {**kept, "anyOf": parts} if parts else kept


def _reference(*path: str) -> Schema:
    return {"$ref": "/".join(("#/$defs", *path))}


def _table(properties: dict[str, Schema], *, required: list[str] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
        **({"required": required} if required else {}),
    }


def _searched(name: str, schema: Schema) -> Schema:
    """What may stand behind a name in [space]: a list, its long form, or a range of numbers."""
    value = _reference("hyperparameters", name)
    values = {"type": "array", "items": value, "minItems": 1}
    condition = {"only_if": _reference("only_if")}
    choice, interval = field_schemas(Choice), field_schemas(Range)
    choices = {"description": choice["choices"]["description"], **values}
    forms = [values, _table({"choices": choices, **condition}, required=["choices"])]
    if schema.get("type") in ("integer", "number"):
        ends = {
            end: {"description": interval[end]["description"], "allOf": [value]}
            for end in ("low", "high")
        }
        step = {
            "description": interval["step"]["description"],
            "type": schema["type"],
            "exclusiveMinimum": 0,
        }
        table = _table(
            {**ends, "log": interval["log"], "step": step, **condition}, required=["low", "high"]
        )
        both = {"properties": {"log": {"const": True}}, "required": ["log", "step"]}
        forms.append({**table, "not": both})
    return {"description": schema["description"], "anyOf": forms}


def _condition(references: dict[str, Schema]) -> Schema:
    """Values of other hyperparameters; ``file`` stands for any weights given as a path."""
    allowed = {**references, "weights": {"anyOf": [references["weights"], {"const": "file"}]}}
    lists = {name: {"type": "array", "items": value} for name, value in allowed.items()}
    return {
        "description": field_schemas(Choice)["only_if"]["description"],
        **_table(lists),
    }
