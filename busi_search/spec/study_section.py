"""The section [study] of a study file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from busi_search.spec.objectives import COSTS, METRICS, direction_of
from busi_search.spec.strict import Strict

_METRIC_OBJECTIVES = [f"cv_{metric}" for metric in METRICS]
_OBJECTIVES = [*_METRIC_OBJECTIVES, *COSTS]
_OBJECTIVE_SCHEMA = {
    "anyOf": [
        {"enum": _METRIC_OBJECTIVES},
        {
            "type": "array",
            "prefixItems": [{"enum": _METRIC_OBJECTIVES}],
            "items": {"enum": _OBJECTIVES},
            "minItems": 1,
            "uniqueItems": True,
            "description": "list of such a metric and further objectives",
        },
    ]
}
_FURTHER_OBJECTIVES_SCHEMA = {
    "type": "array",
    "items": {"enum": _OBJECTIVES},
    "uniqueItems": True,
}


class StudySection(Strict):
    """How the search goes: what is optimised, who proposes, who prunes."""

    objective: Annotated[str, WithJsonSchema(_OBJECTIVE_SCHEMA)] = "cv_auc"
    """What the search optimises: a metric, averaged over the validation folds.

    `cv_log_loss`, `cv_brier` and `cv_ece` are minimised, all others maximised. `cv_ece` is mostly
    noise with few images; `cv_log_loss` and `cv_brier` judge calibration without its bias. A list
    makes the search a multi-objective one: its first entry is a metric, and further ones may also
    be `num_parameters` or `latency_ms` (milliseconds for one image), which are minimised.

    Default: the AUC judges a trial by the order of all images; accuracy changes in steps of one
    image, so that trials tie.
    Example: objective = ["cv_auc", "num_parameters"]
    """

    further_objectives: Annotated[tuple[str, ...], WithJsonSchema(_FURTHER_OBJECTIVES_SCHEMA)] = ()
    """Objectives after the first, where they are not written into the list of `objective`.

    Default: most searches have one objective.
    Example: further_objectives = ["num_parameters"]
    """

    winner: Literal["best", "one_standard_error"] = "best"
    """Rule by which the released trial is chosen.

    `best` takes the best objective. `one_standard_error` takes, of all trials within one standard
    error of the best, the one with the lowest second objective, or the fewest parameters where
    there is no second objective.

    Default: the simplest rule; the reported score is corrected for the choice under either rule.
    """

    sampler: Literal["tpe", "gp", "random", "grid", "cmaes"] = "tpe"
    """Method that proposes the hyperparameters of the next trial.

    `tpe` looks at one hyperparameter at a time; `gp` fits a Gaussian process to those that every
    trial has, and uses `tpe` for those under a condition and from trial 400 on; `random` draws at
    random; `grid` tries every combination of a finite space; `cmaes` evolves a population and
    knows one objective only.

    Default: it suits every space and any number of trials; in our measurements `gp` found better
    models on BUSI and none better on BreastMNIST.
    """

    pruner: Literal["none", "median", "hyperband", "wilcoxon", "evidence"] = "evidence"
    """Rule that stops a trial before all its folds are trained.

    `evidence` compares it with the best trial image by image and stops it when its overtaking index
    (from 0, hopeless, to 1; not a calibrated probability) is below 0.2, or below 0.15 within a
    fold. `median`, `hyperband` and `wilcoxon` are Optuna's and compare fold scores of a single
    objective; `none` trains every fold.

    Default: in whole searches on BreastMNIST it needed 2.7 times fewer epochs and lost at most
    0.003 of AUC.
    """

    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of every random draw: sealed test, folds, proposals and training.

    The same seed and the same images give the same study.

    Unit: none.
    Default: any number serves; it is fixed so that a run can be repeated.
    Example: seed = 1
    """

    deterministic: bool = True
    """Train with algorithms that give the same result every time on the same GPU.

    The winner's fold models are trained again before they are registered, and are refused if their
    predictions differ from those that were scored. On a CPU a training always repeats itself, and
    this key changes nothing.

    Default: without it a GPU adds up in another order every time, and the winner may be refused.
    """

    startup_trials: int = Field(default=10, ge=0)
    """Number of trials proposed at random before the sampler learns from results.

    Recipes count among them. The pruner `median` also waits for this many trials.

    Unit: trials.
    Default: Optuna's own default for TPE.
    Example: startup_trials = 20
    """

    recipes: tuple[str, ...] = ()
    """Study files of known systems, by bundled name or path, that are tried first.

    What this study fixes in `[hyperparameters]`, and its image size, holds for them too.

    Default: none; known systems cost time, and a study must ask for them.
    Example: recipes = ["recipes/003a-custom-cnn", "my-baseline.toml"]
    """

    recipe_epochs: int | None = Field(default=None, ge=1)
    """Largest number of epochs for any recipe, named or written in the file.

    It takes the place of the number of epochs that the study fixes.

    Unit: epochs.
    Default: no limit of its own; the epochs in `[hyperparameters]` hold for named recipes.
    Example: recipe_epochs = 20
    """

    model: str | None = Field(default=None, min_length=1, max_length=200, pattern=r"^[^/:'\"]+$")
    """Name of the registered model in MLflow that the winner becomes a version of.

    Models of one name compete for the aliases `candidate` and `champion`. It may be changed in a
    study that was begun; the next winner is registered under the new name.

    Default: it follows the classes: `busi-classifier` has BUSI's three, other classes stand in the
    name (`busi-classifier-benign-malignant`), and phantoms have `busi-classifier-phantom`. A study
    keeps the name under which it registered its first winner.
    Example: model = "our-clinic"
    """

    reported: str = ""
    """What the source of a known system reports, shown beside its result here.

    Default: nothing to report; only files of known systems need it.
    Example: reported = "test accuracy 0.877, AUC 0.911"
    """

    @model_validator(mode="before")
    @classmethod
    def _split_objectives(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(raw.get("objective"), list | tuple):
            first, *further = raw["objective"] or [""]
            return {**raw, "objective": first, "further_objectives": further}
        return raw

    @model_validator(mode="after")
    def _known_objective(self) -> Self:
        if self.objective not in _METRIC_OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(_METRIC_OBJECTIVES)}")
        for name in self.further_objectives:
            if name not in _OBJECTIVES:
                raise ValueError(f"objective '{name}' must be one of {', '.join(_OBJECTIVES)}")
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
        return self.pruner != "wilcoxon"

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
