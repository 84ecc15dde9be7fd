"""What the text below a field says, and what a field may be, in words."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_MARK = re.compile(r"^(Unit|Default|Example): ", re.MULTILINE)
_KINDS = {
    "array": "list",
    "boolean": "`true` or `false`",
    "integer": "whole number",
    "number": "number",
    "object": "table of hyperparameters, each with a list of values",
    "string": "text",
}


@dataclass(frozen=True)
class Documentation:
    """The parts of the text below a field.

    Attributes:
        meaning: what the field means; paragraphs are separated by an empty line.
        unit: of a number; empty elsewhere.
        reason: why the default is what it is, or what holds without one; ends with a full stop.
        example: lines of a study file.
    """

    meaning: str
    unit: str = ""
    reason: str = ""
    example: str = ""

    @property
    def summary(self) -> str:
        """All but the example, as one paragraph."""
        parts = [
            _joined(self.meaning),
            f"Unit: {self.unit}" if self.unit else "",
            f"Default: {self.reason}" if self.reason else "",
        ]
        return " ".join(part for part in parts if part)


def read_documentation(text: str | None) -> Documentation:
    """Take the text below a field apart."""
    meaning, *parts = _MARK.split(text or "")
    found = dict(zip(parts[::2], parts[1::2], strict=True))
    return Documentation(
        meaning=meaning.strip(),
        unit=_joined(found.get("Unit", "")),
        reason=_joined(found.get("Default", "")),
        example=found.get("Example", "").strip(),
    )


def _joined(text: str) -> str:
    return " ".join(text.split())


def written(value: Any) -> str:
    """Return a value as a study file has it."""
    return json.dumps(value, ensure_ascii=False)


def values_in_words(schema: Mapping[str, Any]) -> str:
    """Return what the JSON Schema of a field allows, such as ``number from 0 to 1``."""
    if "description" in schema:
        return str(schema["description"])
    if "anyOf" in schema:
        return " or ".join(values_in_words(part) for part in schema["anyOf"])
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if "properties" in schema:
        return f"tables with {', '.join(schema['properties'])}"
    return _KINDS[schema["type"]] + _limits(schema) + _items(schema)


def _items(schema: Mapping[str, Any]) -> str:
    if "items" not in schema:
        return ""
    items = values_in_words(schema["items"])
    return f" of {'texts' if items == 'text' else items}"


def _limits(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {schema['minimum']:,} to {schema['maximum']:,}"
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    found = [f"{word} {schema[key]:,}" for key, word in words if key in schema]
    return " " + ", ".join(found) if found else ""
