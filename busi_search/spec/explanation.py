"""What a key of a study file means, for ``busi-search explain`` and the reference page."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from busi_search.errors import InputError
from busi_search.spec.about import About
from busi_search.spec.dataset_section import DatasetSection
from busi_search.spec.documentation import read_documentation, values_in_words, written
from busi_search.spec.gate import Gate
from busi_search.spec.hyperparameters import Hyperparameters
from busi_search.spec.operating_point import OperatingRule
from busi_search.spec.schema import field_schemas
from busi_search.spec.space import Choice, Condition, Range
from busi_search.spec.strict import nearest
from busi_search.spec.study import RecipeLabels, StudySpec
from busi_search.spec.study_section import StudySection

# In this order a key without its section is looked for; as with --set, hyperparameters come first.
_MODELS: dict[str, tuple[type[BaseModel], ...]] = {
    "hyperparameters": (Hyperparameters,),
    "study": (StudySection,),
    "dataset": (DatasetSection,),
    "gate": (Gate,),
    "operating_point": (OperatingRule,),
    "about": (About,),
    "space": (Range, Choice, Condition),
    "recipe": (RecipeLabels,),
}
_WHERE = {
    "hyperparameters": "fixed in [hyperparameters], searched in [space], or set by a [[recipe]]",
    "study": "in [study]",
    "dataset": "in [dataset]",
    "gate": "in [gate]",
    "operating_point": "in [operating_point]",
    "about": "in [about]",
    "space": "behind the name of a hyperparameter in [space]",
    "recipe": "in a [[recipe]]",
}


@dataclass(frozen=True)
class Explanation:
    """One key of a study file.

    Attributes:
        key: as ``explain_key`` takes it; hyperparameters stand alone, others behind their section.
        section: where it is defined.
        name: of the key in that section; that of the section if it is one.
        meaning: paragraphs, separated by an empty line.
        values: what it may be, in words.
        unit: of a number, or empty.
        required: whether a study file must have it.
        default: what holds where the file is silent; None if that is no value but a rule.
        reason: why it is the default, or the rule.
        where: the sections in which it may stand.
        example: lines of a study file, with their section.
    """

    key: str
    section: str
    name: str
    meaning: str
    values: str
    unit: str
    required: bool
    default: Any
    reason: str
    where: str
    example: str

    @property
    def default_in_words(self) -> str:
        """The default as a study file has it, and its reason."""
        if self.required:
            return "none; the key is required."
        return self.reason if self.default is None else f"{written(self.default)}: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Return what ``busi-search explain --json`` prints."""
        return asdict(self)


def explain_key(key: str) -> Explanation:
    """Explain a key of a study file.

    Args:
        key: ``learning_rate``, ``study.pruner``, ``space`` …; the section may be left out, and
            ``space.`` or ``recipe.`` may stand before a hyperparameter, too.

    Raises:
        InputError: there is no such key; the sentence names the nearest one.
    """
    known = {found.key: found for found in all_keys()}
    section, _, name = key.rpartition(".")
    if section in ("hyperparameters", "space", "recipe") and name in Hyperparameters.model_fields:
        return known[name]
    for candidate in (key, *(f"{other}.{key}" for other in _MODELS)):
        if candidate in known:
            return known[candidate]
    spellings = {*known, *(found.name for found in known.values())}
    raise InputError(f"No key '{key}' in a study file; {nearest(key, sorted(spellings))}")


def all_keys() -> Iterator[Explanation]:
    """Yield every key that ``explain_key`` knows: the sections and what they hold."""
    for section, field in StudySpec.model_fields.items():
        documentation = read_documentation(field.description)
        yield Explanation(
            key=section,
            section=section,
            name=section,
            meaning=documentation.meaning,
            values=_keys_in_words(section),
            unit="",
            required=field.is_required(),
            default=None,
            reason=documentation.reason,
            where="a section of the file" + (", once or several times" * (section == "recipe")),
            example=f"{_header(section)}\n{documentation.example}",
        )
        yield from explain_section(section)


def _keys_in_words(section: str) -> str:
    own = ", ".join(explanation.name for explanation in explain_section(section))
    return {
        "space": f"any hyperparameter, with a list of values or a table of {own}",
        "recipe": f"{own} and any hyperparameter",
    }.get(section, own)


def explain_section(section: str) -> list[Explanation]:
    """Explain every key of a section; of ``space``, what a range or a list may say."""
    found: dict[str, Explanation] = {}
    for model in _MODELS[section]:
        for name, schema in field_schemas(model).items():
            # What a range and a list have in common comes after what each has for itself.
            found.pop(name, None)
            found[name] = _explain_field(section, name, model.model_fields[name], schema)
    return list(found.values())


def _explain_field(
    section: str, name: str, field: FieldInfo, schema: Mapping[str, Any]
) -> Explanation:
    documentation = read_documentation(field.description)
    return Explanation(
        key=name if section == "hyperparameters" else f"{section}.{name}",
        section=section,
        name=name,
        meaning=documentation.meaning,
        values=values_in_words({k: v for k, v in schema.items() if k != "description"}),
        unit=documentation.unit.removesuffix("."),
        required=field.is_required(),
        default=schema.get("default"),
        reason=documentation.reason,
        where=_WHERE[section],
        example=_example(section, name, documentation.example, schema),
    )


def _example(section: str, name: str, stated: str, schema: Mapping[str, Any]) -> str:
    """Return lines of a study file; of a hyperparameter one that fixes and one that searches."""
    values = schema.get("enum", [False, True])
    if section != "hyperparameters":
        return f"{_header(section)}\n{stated or f'{name} = {written(values[-1])}'}"
    default = schema.get("default", Hyperparameters.model_fields[name].default)
    searched = f"[space]\n{stated or f'{name} = {written(values)}'}"
    if default is None:
        return searched
    return f"[hyperparameters]\n{name} = {written(default)}\n\n{searched}"


def _header(section: str) -> str:
    return "[[recipe]]" if section == "recipe" else f"[{section}]"
