"""A whole study file, and what is wrong with one in one sentence."""

import itertools
import json
import re
from typing import Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from busi_search.architectures import has_imagenet_weights
from busi_search.spec.about import About
from busi_search.spec.combinations import first_clash
from busi_search.spec.configuration.image_geometry import FROM_DATASET
from busi_search.spec.dataset_section import DatasetSection
from busi_search.spec.gate import Gate
from busi_search.spec.heads import check_heads, check_maps, refusal, settled
from busi_search.spec.hyperparameters import Hyperparameters
from busi_search.spec.operating_point import OperatingRule
from busi_search.spec.space import Choice, Range, SearchSpace
from busi_search.spec.strict import Scalar, Strict, nearest
from busi_search.spec.study_section import StudySection


class RecipeLabels(Strict):
    """What a recipe may say besides hyperparameters."""

    name: str | None = None
    """Name of the known configuration, as reports and MLflow show it.

    Default: its place in the file, such as `recipe 0`.
    Example: name = "medmnist-baseline"
    """

    reported: str | None = None
    """What the source of the configuration reports, shown beside its result here.

    Default: nothing; many configurations have no published result.
    Example: reported = "AUC 0.901, accuracy 0.863"
    """


RECIPE_LABELS = tuple(RecipeLabels.model_fields)


class StudySpec(Strict):
    """A whole study file, checked."""

    study: StudySection = StudySection()
    """How the search goes: what is optimised, who proposes trials, and who stops them early.

    Default: every key has a default, so the section may be left out.
    Example: objective = "cv_auc"
    sampler = "tpe"
    seed = 0
    """

    dataset: DatasetSection
    """Where the images come from, and how they are divided into a sealed test and folds.

    Example: source = "busi"
    path = "data"
    """

    hyperparameters: dict[str, Scalar] = Field(default_factory=dict)
    """Hyperparameters with the same value in every trial.

    `--set KEY=VALUE` fixes one for a single run, even if the file searches it.

    Default: a hyperparameter that is neither fixed nor searched has its own default.
    Example: epochs = 30
    weights = "none"
    """

    space: SearchSpace = Field(default_factory=dict)
    """Hyperparameters that are searched, each with the values it may take.

    A list names the values. A range has a lowest and a highest one, and may be logarithmic or have
    a step; with whole numbers at both ends it means whole numbers. The long form of a list,
    `{ choices = [...] }`, and a range may have a condition, `only_if`.

    Default: empty; the study then tries its recipes, or its one fixed configuration.
    Example: learning_rate = { low = 1e-4, high = 1e-2, log = true }
    architecture = ["small_cnn", "tiny_resnet"]
    freeze_depth = { low = 0, high = 5, only_if = { weights = ["imagenet", "file"] } }
    """

    recipe: tuple[dict[str, Scalar], ...] = ()
    """A known configuration that is tried before the sampler's own proposals.

    It may set any hyperparameter, and have a `name` and what its source `reported`; the section may
    come several times. What it leaves open has its fixed value or its default.

    Default: none; the search then begins with the known systems in `recipes`, or at random.
    Example: name = "medmnist-baseline"
    architecture = "resnet18"
    learning_rate = 1e-3
    """

    gate: Gate = Gate()
    """What a candidate must hold on the sealed test to become champion.

    The options of `busi-search promote` override it.

    Default: better than chance, and shown to be not much worse than the best champion so far.
    Example: max_auc_drop = 0.02
    min_sensitivity = 0.9
    """

    operating_point: OperatingRule = OperatingRule()
    """Threshold: the probability from which an image is called positive (malignant).

    It is fixed as the study begins; whoever wants another begins another study.

    Default: at least 95 % of the malignant images are found, out of fold. Studies that began before
    there was this section keep their rule, a specificity of at least 0.9.
    Example: rule = "sensitivity"
    at_least = 0.95
    """

    about: About = About()
    """What only the researcher knows of the study; reports and checklists quote it.

    Default: empty; a checklist then names what is still to be written.
    Example: title = "Benign or malignant? Breast ultrasound at two hospitals"
    reference_standard = "Histology"
    """

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.resolve({})
        for name, searched in self.space.items():
            for value in searched.ends:
                _check_hyperparameters({name: value}, f"space.{name}")
            for other in searched.only_if:
                if other not in Hyperparameters.model_fields:
                    raise ValueError(f"space.{name}: only_if names an unknown key '{other}'")
        fixed = self._written({})
        check_heads(self.space, fixed)
        check_maps(self.space, fixed)
        for index, (entry, settings) in enumerate(
            zip(self.recipe, self.recipe_settings(), strict=True)
        ):
            where = f"recipe {entry.get('name', index)}"
            _check_hyperparameters(settings, where)
            if (sentence := refusal(self._written(settings))) is not None:
                raise ValueError(f"{where}: {sentence}")
        if (clash := first_clash(self)) is not None:
            raise ValueError(clash)
        if self.dataset.lesions == "found":
            if all(seen.region == "image" for seen in self.configurations("region")):
                raise ValueError('lesions = "found" needs region = "lesion" or "both"')
            if any(seen.mask_weight > 0 for seen in self.configurations("mask_weight")):
                raise ValueError('mask_weight and lesions = "found" cannot be combined; leave one')
        return self

    def configurations(self, *names: str) -> list[Hyperparameters]:
        """Return one configuration for every combination of what these hyperparameters may be.

        Of a range its two ends; the recipes come last, each as it is.
        """
        searched = {name: self.space[name].ends for name in names if name in self.space}
        sampled = [
            dict(zip(searched, values, strict=True))
            for values in itertools.product(*searched.values())
        ]
        return [self.resolve(values) for values in sampled + self.recipe_settings()]

    def recipe_settings(self) -> list[dict[str, Any]]:
        """Return what each recipe sets, without its labels."""
        return [
            {key: value for key, value in entry.items() if key not in RECIPE_LABELS}
            for entry in self.recipe
        ]

    def resolve(self, sampled: dict[str, Any]) -> Hyperparameters:
        """Return the full configuration: defaults, the file's fixed values, then ``sampled``.

        What the head ``logistic`` implies, one epoch and frozen stages, is put in.
        """
        resolved = self._written(sampled)
        if resolved.weights == "imagenet" and not has_imagenet_weights(resolved.architecture):
            # Nobody has trained it on ImageNet: it starts from scratch, and says so.
            scratch = {"weights": "none", "freeze_depth": 0, "head_only_epochs": 0}
            return resolved.model_copy(update=scratch)
        return settled(resolved)

    def _written(self, sampled: dict[str, Any]) -> Hyperparameters:
        """Return defaults, the file's fixed values and ``sampled``, as they were written."""
        fixed: dict[str, Any] = {name: getattr(self.dataset, name) for name in FROM_DATASET}
        fixed.update(self.hyperparameters)
        return _check_hyperparameters({**fixed, **sampled}, "hyperparameters")


def _check_hyperparameters(values: dict[str, Any], where: str) -> Hyperparameters:
    """Build the hyperparameters or raise a ValueError that names the place in the file."""
    try:
        return Hyperparameters(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_problem(error, Hyperparameters)}") from None


# What pydantic puts behind a key whose values may be of several kinds.
_UNION = re.compile(r"(bool|int|float|str|none)$|(literal|constrained|function)\b")
_SECTIONS: dict[str, type[BaseModel]] = {
    "study": StudySection,
    "dataset": DatasetSection,
    "gate": Gate,
}


def _known_keys(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Names that would have been allowed at the place where an unknown key stood."""
    sections: dict[str, type[BaseModel]] = {
        "study": StudySection,
        "dataset": DatasetSection,
        "gate": Gate,
        "operating_point": OperatingRule,
        "about": About,
        "Range": Range,
        "Choice": Choice,
    }
    for part in reversed(location[:-1]):
        if str(part) in sections:
            return list(sections[str(part)].model_fields)
    return list(model.model_fields)


def _allowed(
    error: ValidationError, location: tuple[int | str, ...], model: type[BaseModel]
) -> str:
    """Name all that a key may be for which there are several kinds of values."""
    # The schema is made from this module.
    from busi_search.spec.documentation import values_in_words
    from busi_search.spec.schema import field_schemas

    owner = _SECTIONS.get(str(location[0]), model)
    name = str(location[1] if location[0] in _SECTIONS else location[0])
    if len(location) - (location[0] in _SECTIONS) == 2 and name in owner.model_fields:
        schema = field_schemas(owner)[name]
        if "anyOf" in schema:
            words = {key: part for key, part in schema.items() if key != "description"}
            return values_in_words(words).replace("`", '"')
    kinds = [
        str(found["loc"][-1])
        for found in error.errors(include_url=False)
        if found["loc"][:-1] == location[:-1]
    ]
    words_of = {"bool": "true or false", "int": "a whole number", "str": "text"}
    named = [words_of.get(kind, "a number") for kind in kinds if kind != "none"]
    if "a number" in named:
        named = [kind for kind in named if kind != "a whole number"]
    return " or ".join(dict.fromkeys(named))


def first_problem(error: ValidationError, model: type[BaseModel]) -> str:
    """Put the first problem pydantic found into one sentence: where, what, what to do."""
    problem = error.errors(include_url=False)[0]
    location = tuple(problem["loc"])
    place = ".".join(str(part) for part in location if part not in ("Range", "Choice")) or "file"
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{place}'; {nearest(str(location[-1]), _known_keys(location, model))}"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if location == ():
        return message
    got = problem.get("input")
    if _UNION.match(str(location[-1])) and len(location) > 1:
        place = ".".join(str(part) for part in location[:-1] if part not in ("Range", "Choice"))
        message = f"expected {_allowed(error, location, model)}"
    return f"{place} = {got!r}: {message}" if not isinstance(got, dict) else f"{place}: {message}"


def spec_json(spec: StudySpec) -> str:
    """Return the study as canonical JSON: what two runs of one study must agree on.

    The gate, the name of the registered model and what is said about the study are left out: they
    do not change the search.
    """
    left_out: Any = {"gate": True, "about": True, "study": {"model"}}
    kept = spec.model_dump(mode="json", exclude=left_out)
    return json.dumps(kept, sort_keys=True)
