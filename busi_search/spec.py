"""What a study is: the study file, its hyperparameters and its search space."""

import difflib
import itertools
import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from busi_search.architectures import ARCHITECTURES

METRICS = (
    "auc",
    "aupr",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "precision",
    "recall",
    "log_loss",
    "brier",
    "ece",
)
MINIMISED_METRICS = frozenset({"log_loss", "brier", "ece"})

# Properties of a model that a study may optimise besides a metric; smaller is better.
COSTS = ("num_parameters", "latency_ms")

# What a network may start from besides a file.
NAMED_WEIGHTS = ("none", "phantom", "imagenet")


def direction_of(objective: str) -> Literal["maximize", "minimize"]:
    """Return whether a larger or a smaller value of an objective is better."""
    metric = objective.removeprefix("cv_")
    return "minimize" if metric in MINIMISED_METRICS or objective in COSTS else "maximize"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StudySection(_Strict):
    """How the search goes: what is optimised, who proposes, who prunes.

    ``objective`` may be written as a list; its first entry is a metric, and further ones make the
    search a multi-objective one. ``winner`` says which trial is released: the best, or the cheapest
    (by the second objective, else by ``num_parameters``) within one standard error of it.
    ``recipes`` names study files of known configurations; what the study fixes holds for them too,
    but ``recipe_epochs``, if given, bounds the number of epochs of all recipes instead.
    ``reported`` is what the source of a recipe reports, to be shown beside its result.
    """

    objective: str = "cv_auc"
    further_objectives: tuple[str, ...] = ()
    winner: Literal["best", "one_standard_error"] = "best"
    sampler: Literal["tpe", "gp", "random", "grid", "cmaes"] = "tpe"
    pruner: Literal["none", "median", "hyperband", "wilcoxon", "evidence"] = "evidence"
    seed: int = Field(default=0, ge=0, lt=2**31)
    startup_trials: int = Field(default=10, ge=0)
    recipes: tuple[str, ...] = ()
    recipe_epochs: int | None = Field(default=None, ge=1)
    reported: str = ""

    @model_validator(mode="before")
    @classmethod
    def _split_objectives(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("objective"), list | tuple):
            first, *further = raw["objective"] or [""]
            return {**raw, "objective": first, "further_objectives": further}
        return raw

    @model_validator(mode="after")
    def _known_objective(self) -> Self:
        known = [f"cv_{metric}" for metric in METRICS]
        if self.objective not in known:
            raise ValueError(f"objective must be one of {', '.join(known)}")
        for name in self.further_objectives:
            if name not in (*known, *COSTS):
                raise ValueError(f"objective '{name}' must be one of {', '.join((*known, *COSTS))}")
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError("objective names one figure twice")
        if self.further_objectives:
            if self.pruner not in ("none", "evidence"):
                raise ValueError(
                    f'pruner = "{self.pruner}" compares one objective only; take evidence or none'
                )
            if self.sampler == "cmaes":
                raise ValueError('sampler = "cmaes" searches one objective only; take tpe or gp')
        return self

    @property
    def asks_optuna_to_prune(self) -> bool:
        """Whether the pruner is one of Optuna's: these know one objective only."""
        return self.pruner in ("median", "hyperband", "wilcoxon")

    @property
    def reports_running_means(self) -> bool:
        """Whether Optuna is told the mean over the folds so far, and not each fold's score."""
        return self.pruner in ("median", "hyperband")

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names of all objectives, the metric that trials are judged by first."""
        return (self.objective, *self.further_objectives)

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """For each objective, whether a larger or a smaller value is better."""
        return [direction_of(name) for name in self.objectives]

    @property
    def metric(self) -> str:
        """Name of the optimised metric without its ``cv_`` prefix."""
        return self.objective.removeprefix("cv_")

    @property
    def direction(self) -> Literal["maximize", "minimize"]:
        """Whether a larger or a smaller objective is better."""
        return direction_of(self.objective)


class DatasetSection(_Strict):
    """Where the images come from and how they are divided."""

    source: Literal["busi", "medmnist", "phantom"]
    path: str | None = None
    image_size_pixels: int = Field(default=64, ge=16, le=1024)
    num_folds: int = Field(default=5, ge=2, le=20)
    test: Literal["official"] | Annotated[float, Field(gt=0, le=0.5)] = 0.2
    groups: str = "auto"
    class_names: tuple[str, ...] | None = None
    phantom_num_images: int = Field(default=300, ge=30, le=20_000)
    phantom_seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.test == "official" and self.source != "medmnist":
            raise ValueError(
                'test = "official" needs source = "medmnist": it has a split of its own'
            )
        return self


class Gate(_Strict):
    """What a candidate must hold on the sealed test to become champion.

    ``max_auc_drop``: its AUC may be lower than the champion's by at most this;
    ``min_sensitivity``: at the operating point; ``max_ece``: expected calibration error.
    """

    max_auc_drop: float = Field(default=0.02, ge=0, le=1)
    min_sensitivity: float | None = Field(default=None, ge=0, le=1)
    max_ece: float | None = Field(default=None, ge=0, le=1)


class Hyperparameters(_Strict):
    """One configuration of a model and its training; every field may be fixed or searched."""

    architecture: str = "small_cnn"
    weights: str = "none"
    normalisation: Literal["auto", "scratch", "half", "imagenet"] = "auto"
    freeze_depth: int = Field(default=0, ge=0, le=20)
    head: Literal["linear", "mlp"] = "linear"
    head_width: int = Field(default=128, ge=1, le=8192)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=10)
    weight_decay: float = Field(default=1e-2, ge=0, le=10)
    scheduler: Literal["none", "cosine", "onecycle", "plateau"] = "cosine"
    warmup_epochs: int = Field(default=0, ge=0, le=200)
    min_learning_rate: float = Field(default=0.0, ge=0, le=1)
    plateau_factor: float = Field(default=0.5, gt=0, lt=1)
    plateau_patience: int = Field(default=5, ge=0, le=2000)
    batch_size: int = Field(default=32, ge=2, le=4096)
    epochs: int = Field(default=20, ge=1, le=2000)
    early_stopping_patience: int = Field(default=0, ge=0, le=2000)
    loss: Literal["cross_entropy", "focal"] = "cross_entropy"
    focal_gamma: float = Field(default=2.0, ge=0, le=10)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    class_weighting: Literal["none", "balanced"] = "none"
    balanced_sampling: bool = False
    mixup_alpha: float = Field(default=0.0, ge=0, le=10)
    augmentation_strength: float = Field(default=0.5, ge=0, le=1)
    augmentation_views: int = Field(default=0, ge=0, le=64)
    flip_horizontal: float = Field(default=0.5, ge=0, le=1)
    flip_vertical: float = Field(default=0.0, ge=0, le=1)
    rotation_degrees: float = Field(default=30.0, ge=0, le=180)
    shift: float = Field(default=0.15, ge=0, le=0.5)
    zoom: float = Field(default=0.2, ge=0, le=0.9)
    contrast: float = Field(default=0.4, ge=0, le=1)
    brightness: float = Field(default=0.2, ge=0, le=1)
    autocontrast: float = Field(default=0.0, ge=0, le=1)
    gain_slope: float = Field(default=0.4, ge=0, le=1)
    speckle: float = Field(default=0.0, ge=0, le=1)
    erasing: float = Field(default=0.5, ge=0, le=1)
    mask_weight: float = Field(default=0.0, ge=0, le=100)
    weight_averaging: float = Field(default=0.0, ge=0, lt=1)
    precise_batch_norm: bool = False
    test_time_flip: bool = False
    test_time_shift: int = Field(default=0, ge=0, le=8)
    image_size_pixels: int = Field(default=64, ge=16, le=1024)

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, name: str) -> str:
        if name not in ARCHITECTURES:
            raise ValueError(f"{nearest(name, list(ARCHITECTURES))}")
        return name


# Keys of a recipe that are not hyperparameters.
RECIPE_LABELS = ("name", "reported")

Scalar = bool | int | float | str


class Condition(_Strict):
    """A searched hyperparameter is sampled only where others have one of the named values."""

    only_if: dict[str, list[Scalar]] = Field(default_factory=dict)


class Range(Condition):
    """A numeric interval; whole numbers at both ends mean an integer hyperparameter."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"a log range needs low > 0, not {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log and step cannot be combined")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether the hyperparameter takes whole numbers only."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def ends(self) -> list[int | float]:
        """The lowest and the highest value."""
        return [self.low, self.high]


class Choice(Condition):
    """A finite list of values."""

    choices: list[Scalar] = Field(min_length=1)

    @property
    def ends(self) -> list[Scalar]:
        """All values."""
        return self.choices


SearchSpace = dict[str, Range | Choice]


class StudySpec(_Strict):
    """A whole study file, checked."""

    study: StudySection = StudySection()
    dataset: DatasetSection
    hyperparameters: dict[str, Scalar] = Field(default_factory=dict)
    space: SearchSpace = Field(default_factory=dict)
    recipe: tuple[dict[str, Scalar], ...] = ()
    gate: Gate = Gate()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.resolve({})
        for name, searched in self.space.items():
            for value in searched.ends:
                _check_hyperparameters({name: value}, f"space.{name}")
            for other in searched.only_if:
                if other not in Hyperparameters.model_fields:
                    raise ValueError(f"space.{name}: only_if names an unknown key '{other}'")
        for index, (entry, settings) in enumerate(
            zip(self.recipe, self.recipe_settings(), strict=True)
        ):
            _check_hyperparameters(settings, f"recipe {entry.get('name', index)}")
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
        """Return the full configuration: defaults, the file's fixed values, then ``sampled``."""
        fixed: dict[str, Any] = {"image_size_pixels": self.dataset.image_size_pixels}
        fixed.update(self.hyperparameters)
        resolved = _check_hyperparameters({**fixed, **sampled}, "hyperparameters")
        if resolved.weights == "imagenet" and not ARCHITECTURES[resolved.architecture].imagenet:
            # Nobody has trained it on ImageNet: it starts from scratch, and says so.
            return resolved.model_copy(update={"weights": "none", "freeze_depth": 0})
        return resolved


def _check_hyperparameters(values: dict[str, Any], where: str) -> Hyperparameters:
    """Build the hyperparameters or raise a ValueError that names the place in the file."""
    try:
        return Hyperparameters(**values)
    except ValidationError as error:
        raise ValueError(f"{where}: {first_problem(error, Hyperparameters)}") from None


def nearest(word: str, known: list[str]) -> str:
    """Return what a mistyped word may have meant, as the end of a sentence."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known keys: {', '.join(sorted(known))}"


def _known_keys(location: tuple[int | str, ...], model: type[BaseModel]) -> list[str]:
    """Names that would have been allowed at the place where an unknown key stood."""
    sections: dict[str, type[BaseModel]] = {
        "study": StudySection,
        "dataset": DatasetSection,
        "gate": Gate,
        "Range": Range,
        "Choice": Choice,
    }
    for part in reversed(location[:-1]):
        if str(part) in sections:
            return list(sections[str(part)].model_fields)
    return list(model.model_fields)


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
    return f"{place} = {got!r}: {message}" if not isinstance(got, dict) else f"{place}: {message}"


def spec_json(spec: StudySpec) -> str:
    """Return the study as canonical JSON: what two runs of one study must agree on.

    The gate is left out: it judges what was found and does not change the search.
    """
    return json.dumps(spec.model_dump(mode="json", exclude={"gate"}), sort_keys=True)
