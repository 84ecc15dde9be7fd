"""The sections [study] and [dataset] of a study file."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from busi_search.spec.hyperparameters import (
    DEFAULT_IMAGE_SIZE_PIXELS,
    Aspect,
    Region,
    ScreenCrop,
)
from busi_search.spec.several_sources import SourceEntry
from busi_search.spec.strict import Strict

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

MOST_FOLDS = 20

# Properties of a model that a study may optimise besides a metric; smaller is better.
COSTS = ("num_parameters", "latency_ms")

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
_GROUPS_SCHEMA = {
    "anyOf": [
        {"enum": ["auto", "none"]},
        {"type": "string", "description": "path of a CSV file"},
    ]
}


def direction_of(objective: str) -> Literal["maximize", "minimize"]:
    """Return whether a larger or a smaller value of an objective is better."""
    metric = objective.removeprefix("cv_")
    return "minimize" if metric in MINIMISED_METRICS or objective in COSTS else "maximize"


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


class DatasetSection(Strict):
    """Where the images come from and how they are divided."""

    source: Literal[
        "busi",
        "medmnist",
        "phantom",
        "table",
        "busbra",
        "breast",
        "bus_uclm",
        "udiat",
        "gdph_sysucc",
        "curated_busi",
        "auto",
        "several",
    ]
    """Kind of dataset: how its files are laid out; `run --data` recognises it.

    `auto` recognises what lies at `path`, and the run says what it took it for. `several` takes the
    images of all `[[dataset.sources]]`.
    `busi` is a folder with one folder per class, `medmnist` an .npz file of the MedMNIST
    collection, `table` a .csv or .xlsx file that lists images and labels, and `phantom` simulates
    its images. The others are published sets as their authors laid them out, with their patients
    and masks: BUS-BRA, BrEaST, BUS-UCLM, UDIAT B, GDPH & SYSUCC and the curated BUSI.

    Example: source = "busi"
    """

    path: str | None = None
    """Folder, table or .npz file of the images; `run --data` replaces it.

    Default: none; images are then named with `--data`, and `phantom` needs none.
    Example: path = "data/breastmnist.npz"
    """

    sources: tuple[SourceEntry, ...] = ()
    """The hospitals or sets of a study with `source = "several"`, two or more.

    Each entry has a `site`, a `path` and, where it is needed, a `source`, `columns` and a `map` of
    its classes. Patients are told apart by site; near-duplicates are found across all of them and
    stay together. The sealed test is drawn within every site.

    Default: empty; a study has one source.
    Example: source = "several"
    folds = "site"

    [[dataset.sources]]
    site = "BUSI"
    path = "Dataset_BUSI_with_GT"
    map = { normal = "leave out" }

    [[dataset.sources]]
    site = "BUS-BRA"
    path = "BUSBRA"
    """

    image_size_pixels: int = Field(default=DEFAULT_IMAGE_SIZE_PIXELS, ge=16, le=1024)
    """Height and width to which images are brought before training.

    Unit: pixels.
    Default: on BUSI the same network scored 0.014 of AUC lower at 96 pixels, for twice the time.
    Example: image_size_pixels = 128
    """

    aspect: Aspect = "squash"
    """How an image of any shape becomes a square.

    `squash` brings both sides to the square's, so that a lesion may look taller or wider than it
    is. `letterbox` brings the longer side to the square's and leaves the rest black. `crop` brings
    the shorter side to the square's and keeps the middle.

    Default: `letterbox` scored 0.03 of AUC lower on BUSI at 64 pixels (see Geometry).
    Example: aspect = "letterbox"
    """

    region: Region = "image"
    """What of an image the network sees.

    The whole `image`; the `lesion` with `region_margin` around it; or `both`, whose features stand
    side by side before the head. All but `image` need lesion masks or boxes, in training and for
    every prediction. A dataset is refused if having a lesion gives away the class, as in BUSI,
    whose normal images are those with an empty mask.

    Default: a prediction then needs no box; with one, `both` scored 0.04 of AUC higher on BUSI.
    Example: region = "both"
    """

    region_margin: float = Field(default=0.5, ge=0, le=4)
    """What is taken around the lesion, on every side, with `region = "lesion"` or `"both"`.

    Unit: a share of the lesion's width (left and right) and height (above and below).
    Default: half the lesion's size on every side shows its rim and its shadow.
    Example: region_margin = 0.25
    """

    crop: ScreenCrop = "none"
    """Whether what the screen shows around every scan is cut away.

    `auto` finds, on the development images, the rectangle outside of which they are all alike
    (black borders, logos, scales); the same rectangle is cut out of every image that is predicted.

    Default: published sets are cut already.
    Example: crop = "auto"
    """

    num_folds: int = Field(default=5, ge=2, le=MOST_FOLDS)
    """Number of cross-validation folds; the released model averages as many networks.

    With `folds = "site"` or `"official"` there are as many as sites or as the authors give; a
    number that is stated must be that.

    Unit: folds.
    Default: what the literature on these images reports.
    Example: num_folds = 10
    """

    folds: Literal["stratified", "official", "site"] = "stratified"
    """What divides the development images into cross-validation folds.

    `official` takes the folds that the authors give (BUS-BRA, the column fold of a `table`), and
    `site` makes each site a fold, so that every model is scored on a hospital that it has not seen:
    the sites of `[[dataset.sources]]` or of a table's column, at least 2, better 3 or more.
    Images that belong to one of the fold that is scored are not trained on.

    Default: folds of one size with the same share of every class.
    Example: folds = "official"
    """

    test: Literal["official"] | Annotated[float, Field(gt=0, le=0.5)] = 0.2
    """Share of every class that is sealed for the final test, or `official`.

    `official` takes MedMNIST's own test images, except those whose near-duplicates are labelled
    otherwise. No trial is trained on sealed images or scored by them; their pixels are read once,
    to find near-duplicates. The images of a `table` whose column split says test are always taken.

    Unit: a share of the images.
    Default: a fifth of BUSI is about 125 images, whose AUC has a 95 % interval of some 0.07 either
    way at 0.9; fewer images would say little.
    Example: test = "official"
    """

    groups: Annotated[str, WithJsonSchema(_GROUPS_SCHEMA)] = "auto"
    """Which images belong together and never cross a fold or the border of the sealed test.

    `auto` finds near-duplicates in the pixels, `none` keeps only identical files together, and a
    CSV file with the columns file,group names known groups such as patients, which are united with
    the near-duplicates. Frames of one lesion are not near-duplicates: only such a file knows them.

    Default: near-duplicates in different folds would inflate every score.
    Example: groups = "groups.csv"
    """

    class_names: tuple[str, ...] | None = None
    """Names of the classes in the order of their labels; for `medmnist` only.

    Default: those of BreastMNIST where the file has its name, otherwise `class 0`, `class 1` and so
    on; `busi` takes the names of its folders.
    Example: class_names = ["malignant", "normal or benign"]
    """

    positive: str | None = None
    """Name of the class that is the disease: AUC, sensitivity and operating point are about it.

    Default: told from the names of the classes, where they tell it: malignant, a kind of cancer, or
    what is left beside normal or benign; otherwise `run` asks for it.
    Example: positive = "cancer"
    """

    columns: dict[str, str] = Field(default={})
    """Which column of a `table` has which meaning: file, label, patient, mask, box, fold, split.

    A `box` is where the lesion is: x y width height, in pixels of the image file. Four columns can
    hold it instead: box_x, box_y, box_width, box_height. Any other word on the left names a
    property such as site, device, age or birads.

    Default: told from the names of the columns, and said.
    Example: columns = { file = "Image_filename", label = "Classification" }
    """

    frames_per_file: int = Field(default=5, ge=1)
    """Largest number of frames that are taken from a DICOM file of several.

    They are evenly spaced, and stay together as one group. A table can name a frame itself, in its
    column frame.

    Unit: frames.
    Default: neighbouring frames of a clip show nearly the same; a few show how the lesion looks
    from several sides without giving long clips more weight than short ones.
    Example: frames_per_file = 1
    """

    phantom_num_images: int = Field(default=300, ge=30, le=20_000)
    """Number of images that `source = "phantom"` simulates.

    Unit: images.
    Default: as many as train within minutes.
    Example: phantom_num_images = 1000
    """

    phantom_seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the simulated images; the study's own `seed` does not change them.

    Unit: none.
    Default: any number serves; it is fixed so that a run can be repeated.
    Example: phantom_seed = 1
    """

    @model_validator(mode="after")
    def _several_sources(self) -> Self:
        sites = [entry.site for entry in self.sources]
        if self.source == "several":
            if len(sites) < 2:
                raise ValueError('source = "several" needs two [[dataset.sources]] or more')
            if self.path is not None:
                raise ValueError(
                    'source = "several" has no path of its own; each of [[dataset.sources]] has one'
                )
        elif sites:
            raise ValueError('[[dataset.sources]] needs source = "several"')
        if len(set(sites)) < len(sites):
            raise ValueError("two of [[dataset.sources]] have the same site")
        return self

    @model_validator(mode="after")
    def _path_where_needed(self) -> Self:
        if self.test == "official" and self.source not in ("medmnist", "table", "auto"):
            raise ValueError(
                'test = "official" needs source = "medmnist", which has a split of its own, or a '
                '"table" with a column split'
            )
        return self
