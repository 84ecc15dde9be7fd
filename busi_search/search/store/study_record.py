"""What a study keeps about itself in the Optuna storage, read and written in one place."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna

from busi_search.data.classes import earlier_positive
from busi_search.spec import EARLIER_RULE, Gate, OperatingRule, StudySpec, spec_json

# Names under which old studies hold these, too.
_IDENTITY = "identity"
_SPEC_TEXT = "spec_text"
# A section that studies of earlier versions lack.
_OPERATING_POINT = "operating_point"
_ORIGIN = "origin"
_COUNTS = "counts"
_CLASS_NAMES = "class_names"
_POSITIVE = "positive"
_SIMULATED = "simulated"
_VERSIONS = "versions"
_TARGET = "target"
_FORGIVEN = "forgiven"
_LAST_SHORT_OF = "last_short_of"
_TRACKED = "tracked"
_COST = "cost"
_RELEASED = "released"
_EXPLANATIONS = "explanations"
_LEARNING_CURVE = "learning_curve"
_TEST_LEDGER = "test_ledger"
_ID = "id"
_GATE = "gate"
_IMAGES_AT = "images_at"
_CACHED_AS = "cached_as"
_FOLD_SIZES = "fold_sizes"
# In a sentence about a study whose images and file are those it began with.
CHANGED_DIVISION = (
    "began with another division into folds and test: its file of groups changed, or an earlier "
    "version found other near-duplicates"
)


@dataclass(frozen=True)
class Identity:
    """What makes a study the same study: two runs of one name must agree on it.

    Attributes:
        spec: the checked study file as canonical JSON, see :func:`~busi_search.spec.spec_json`.
        fingerprint: of the images and their labels.
        partition: digest of the division into folds and test.
        lesions: digest of the masks and boxes by which regions are cut out; empty: none are.
    """

    spec: str
    fingerprint: str
    partition: str
    lesions: str = ""

    def load_spec(self) -> StudySpec:
        """Return the study file.

        Raises:
            ValueError: this version of the program does not know what it asks for.
        """
        raw = json.loads(self.spec)
        raw.setdefault(_OPERATING_POINT, EARLIER_RULE)
        return StudySpec.model_validate(raw)

    def with_earlier_rules(self, spec: StudySpec) -> StudySpec:
        """Return a study file with what an earlier version did where it says nothing itself."""
        if _OPERATING_POINT in json.loads(self.spec) or _OPERATING_POINT in spec.model_fields_set:
            return spec
        earlier = OperatingRule.model_validate(EARLIER_RULE)
        return spec.model_copy(update={_OPERATING_POINT: earlier})

    @property
    def objective(self) -> str:
        """Name of the first objective, also of a study file of another version."""
        return str(json.loads(self.spec)["study"]["objective"])

    @property
    def num_folds(self) -> int:
        """Number of folds, also of a study file of another version."""
        return int(json.loads(self.spec)["dataset"]["num_folds"])

    def change_of_images(self, fingerprint: str) -> str | None:
        """Return how the images differ, as "changed since it began (then → now)", or None."""
        if fingerprint == self.fingerprint:
            return None
        return f"changed since it began ({self.fingerprint} → {fingerprint})"

    def difference(self, now: "Identity") -> str | None:
        """Return in what a study differs from the one that it was, or None if it is the same."""
        if (changed := self.change_of_images(now.fingerprint)) is not None:
            return f"the images {changed}"
        # Read again, for an earlier version may not have had every key there is now.
        try:
            spec = spec_json(self.load_spec())
        except ValueError:
            spec = self.spec
        if _without_places(now.spec) != _without_places(spec):
            keys = ", ".join(_changed_keys(json.loads(spec), json.loads(now.spec)))
            return f"the study file differs from the one it began with ({keys or 'recipes'})"
        if now.partition != self.partition:
            return CHANGED_DIVISION
        return self.change_of_lesions(now.lesions)

    def change_of_lesions(self, lesions: str) -> str | None:
        """Return how the lesions' masks or boxes differ, as :meth:`change_of_images` does."""
        if lesions == self.lesions:
            return None
        then, now = self.lesions or "none", lesions or "none"
        return f"the lesions' masks or boxes changed since it began ({then} → {now})"


def _without_places(spec: str) -> Any:
    """Return a study file without the places of its images and its file of groups.

    Fingerprint and division say what is in them, wherever they are.
    """
    content = json.loads(spec)
    dataset = dict(content["dataset"])
    dataset.pop("path", None)
    dataset["sources"] = [
        {key: value for key, value in entry.items() if key != "path"}
        for entry in dataset.get("sources", [])
    ]
    if dataset.get("groups") not in (None, "auto", "none"):
        dataset["groups"] = "file"
    return {**content, "dataset": dataset}


def _changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    return [
        f"{section}.{key}"
        for section in ("study", "dataset", "hyperparameters", "space", _OPERATING_POINT)
        for key in sorted({*before[section], *after[section]})
        if before[section].get(key) != after[section].get(key)
    ]


@dataclass(frozen=True)
class ImagesAt:
    """Where a study's images are on a machine; no part of what makes it the same study.

    Attributes:
        absolute: path of the folder, table or file.
        from_home: the same, seen from the home: it holds where both were moved together.
        groups: path of the file of groups, where there is one.
    """

    absolute: str
    from_home: str
    groups: str | None = None


@dataclass(frozen=True)
class Tracked:
    """Where in MLflow a study is copied to."""

    experiment_id: str
    run_id: str


@dataclass(frozen=True)
class Cost:
    """What all calls that searched a study took together.

    Attributes:
        seconds: wall time.
        search_seconds: of this, until the searches had ended.
        tracking_seconds: of this, with MLflow.
    """

    seconds: float = 0.0
    search_seconds: float = 0.0
    tracking_seconds: float = 0.0


@dataclass(frozen=True)
class Released:
    """The winner that a study registered last.

    Attributes:
        finished: number of finished trials among which it won.
        trial: its number.
        version: of the registered model.
        model: its name; every model had one name in earlier versions.
        estimates: its figures corrected for the choice, by metric: value, low, high, naive.
        rebuilt_difference: largest difference of a probability between the trial and its models
            trained again.
    """

    finished: int
    trial: int
    version: str
    estimates: Mapping[str, Mapping[str, float | None]]
    rebuilt_difference: float
    model: str = "busi-classifier"


@dataclass(frozen=True)
class Explanations:
    """Where a winner looked: Grad-CAM maps of some development images.

    Attributes:
        trial: number of the winner.
        maps: by the image's index, rows of grey levels from 0 to 255.
    """

    trial: int
    maps: Mapping[str, list[list[int]]] = field(repr=False)


@dataclass(frozen=True)
class LearningPoint:
    """A winner's score when it learns from a share of the groups of images.

    Attributes:
        share: of the groups of each fold's training part.
        num_images: mean number of images that a fold learns from.
        score: mean over folds, and over draws of the groups.
        low, high: the worst and the best draw; the score itself where nothing is drawn.
    """

    share: float
    num_images: int
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """How a winner's score grows with images; the points by their number.

    Attributes:
        trial: number of the winner.
        metric: which score it is.
        points: the last one is of all groups.
    """

    trial: int
    metric: str
    points: tuple[LearningPoint, ...]


class StudyRecord:
    """All that a study keeps about itself; every reading asks the storage."""

    def __init__(self, study: optuna.Study) -> None:
        """Take the study whose attributes are read and written."""
        self._study = study

    def _get(self, key: str, default: Any = None) -> Any:
        return self._study.user_attrs.get(key, default)

    @property
    def identity(self) -> Identity | None:
        """What the study must agree with to go on; None if it was named but never begun."""
        found = self._get(_IDENTITY)
        return None if found is None else Identity(**found)

    @property
    def id(self) -> str | None:
        """32 hexadecimal digits that no other study has; None in one of an earlier version.

        A name may come again: the study is deleted and begun anew, or somebody else took it.
        """
        found = self._get(_ID)
        return None if found is None else str(found)

    def make_id(self) -> str:
        """Return the study's id, made first if it has none."""
        found = self.id
        if found is None:
            found = uuid.uuid4().hex
            self._study.set_user_attr(_ID, found)
        return found

    @property
    def has_begun(self) -> bool:
        """Whether the study holds all that it needs to be opened again."""
        return self.identity is not None

    def set_identity(self, identity: Identity) -> None:
        """Keep what makes the study the same; last of all, for it says that the study has begun."""
        content = asdict(identity)
        if not identity.lesions:
            # As it was kept before regions were cut out.
            del content["lesions"]
        self._study.set_user_attr(_IDENTITY, content)

    def describe(
        self,
        *,
        spec_text: str,
        origin: str,
        counts: Mapping[str, int],
        class_names: Iterable[str],
        simulated: bool,
        versions: Mapping[str, str],
        positive: str | None = None,
    ) -> None:
        """Keep what a study says about itself.

        Args:
            spec_text: the study file, verbatim.
            origin: its name.
            counts: number of images, groups, conflicts and test images of the whole dataset.
            class_names: of the dataset, in the order of the labels.
            simulated: whether the images are phantoms.
            versions: of packages and hardware, as :func:`~.identity.environment` gives them.
            positive: name of the class that is the disease.
        """
        self._study.set_user_attr(_SPEC_TEXT, spec_text)
        self._study.set_user_attr(_ORIGIN, origin)
        self.set_counts(counts)
        self._study.set_user_attr(_CLASS_NAMES, list(class_names))
        if positive is not None:
            self._study.set_user_attr(_POSITIVE, positive)
        self._study.set_user_attr(_SIMULATED, simulated)
        self._study.set_user_attr(_VERSIONS, dict(versions))

    @property
    def counts(self) -> dict[str, int]:
        """Number of images, groups and the like when the study was last driven, by name."""
        return dict(self._get(_COUNTS, {}))

    def set_counts(self, counts: Mapping[str, int]) -> None:
        """Keep how many images, groups and the like there are."""
        self._study.set_user_attr(_COUNTS, dict(counts))

    @property
    def spec_text(self) -> str:
        """The study file, verbatim; empty if the study was never begun."""
        return str(self._get(_SPEC_TEXT, ""))

    def set_spec_text(self, text: str) -> None:
        """Keep the study file as it is now: what does not change the search may change."""
        self._study.set_user_attr(_SPEC_TEXT, text)

    @property
    def gate(self) -> Gate | None:
        """The section [gate] as the study was last run; None in one of an earlier version."""
        found = self._get(_GATE)
        return None if found is None else Gate.model_validate(found)

    def set_gate(self, gate: Gate) -> None:
        """Keep the section [gate], with what ``--set`` changed in it."""
        self._study.set_user_attr(_GATE, gate.model_dump(mode="json"))

    @property
    def images_at(self) -> ImagesAt | None:
        """Where the images were last found; None in a study of an earlier version."""
        found = self._get(_IMAGES_AT)
        return None if found is None else ImagesAt(**found)

    def set_images_at(self, place: ImagesAt) -> None:
        """Keep where the images were found."""
        self._study.set_user_attr(_IMAGES_AT, asdict(place))

    @property
    def fold_sizes(self) -> tuple[int, ...] | None:
        """How many images each fold is scored on; None in a study of an earlier version."""
        found = self._get(_FOLD_SIZES)
        return None if found is None else tuple(found)

    def set_fold_sizes(self, sizes: Iterable[int]) -> None:
        """Keep how many images each fold is scored on."""
        self._study.set_user_attr(_FOLD_SIZES, list(sizes))

    @property
    def cached_as(self) -> frozenset[str]:
        """With what the names of files begin that are cached for the study's images."""
        identity, found = self.identity, self._get(_CACHED_AS, ())
        return frozenset([*found, *([] if identity is None else [identity.fingerprint])])

    def set_cached_as(self, fingerprint: str) -> None:
        """Keep the fingerprint of the development images."""
        self._study.set_user_attr(_CACHED_AS, [fingerprint])

    @property
    def origin(self) -> str:
        """Name of the study file; empty if the study was never begun."""
        return str(self._get(_ORIGIN, ""))

    @property
    def positive(self) -> str:
        """Name of the class that is the disease; empty if the study was never begun.

        Studies that did not keep it told it from the names by the first version's rule.
        """
        if (found := self._get(_POSITIVE)) is not None:
            return str(found)
        stated = json.loads(self._get(_IDENTITY, {}).get("spec", "{}"))
        if (found := stated.get("dataset", {}).get("positive")) is not None:
            return str(found)
        names = list(map(str, self._get(_CLASS_NAMES, ())))
        return names[earlier_positive(names)] if names else ""

    @property
    def simulated(self) -> bool:
        """Whether the images are phantoms."""
        return bool(self._get(_SIMULATED, False))

    @property
    def versions(self) -> dict[str, str]:
        """Versions and hardware when the study began, by name."""
        return dict(self._get(_VERSIONS, {}))

    @property
    def target(self) -> int | None:
        """Total number of trials to finish, by the latest driver, or None."""
        found = self._get(_TARGET)
        return None if found is None else int(found)

    def set_target(self, num_trials: int) -> None:
        """Store the total number of trials to finish."""
        self._study.set_user_attr(_TARGET, num_trials)

    @property
    def forgiven(self) -> frozenset[int]:
        """Numbers of failed trials that do not end the search."""
        return frozenset(self._get(_FORGIVEN, ()))

    def forgive(self, trials: Iterable[int]) -> None:
        """Say which failed trials do not end the search."""
        self._study.set_user_attr(_FORGIVEN, list(trials))

    def set_missing(self, num_trials: int) -> None:
        """Note how many trials a search whose workers all died was short of."""
        self._study.set_user_attr(_LAST_SHORT_OF, num_trials)

    @property
    def tracked(self) -> Tracked | None:
        """Where in MLflow the study is copied to, or None before it was."""
        found = self._get(_TRACKED)
        return None if found is None else Tracked(**found)

    def set_tracked(self, tracked: Tracked) -> None:
        """Note where in MLflow the study is copied to."""
        self._study.set_user_attr(_TRACKED, asdict(tracked))

    @property
    def cost(self) -> Cost:
        """What all calls that searched took together."""
        return Cost(**self._get(_COST, {}))

    def set_cost(self, cost: Cost) -> None:
        """Keep what all calls that searched took together."""
        self._study.set_user_attr(_COST, asdict(cost))

    @property
    def released(self) -> Released | None:
        """The winner that was registered last, or None."""
        found = self._get(_RELEASED)
        return Released(**found) if found else None

    def set_released(self, released: Released) -> None:
        """Keep which winner was registered."""
        self._study.set_user_attr(_RELEASED, asdict(released))

    @property
    def explanations(self) -> Explanations | None:
        """Where the winner that was registered last looked, or None."""
        found = self._get(_EXPLANATIONS)
        return Explanations(**found) if found else None

    def set_explanations(self, explanations: Explanations) -> None:
        """Keep where the winner looked."""
        self._study.set_user_attr(_EXPLANATIONS, asdict(explanations))

    @property
    def learning_curve(self) -> LearningCurve | None:
        """How the score of the winner that was registered last grows with images, or None."""
        found = self._get(_LEARNING_CURVE)
        if not found:
            return None
        points = tuple(LearningPoint(**point) for point in found["points"])
        return LearningCurve(found["trial"], found["metric"], points)

    def set_learning_curve(self, curve: LearningCurve | None) -> None:
        """Keep how the winner's score grows with images; None: that was not measured."""
        self._study.set_user_attr(_LEARNING_CURVE, None if curve is None else asdict(curve))

    @property
    def test_ledger(self) -> list[dict[str, Any]] | None:
        """The entries of the sealed test's ledger; None in a study that has none or is older."""
        found = self._get(_TEST_LEDGER)
        return None if found is None else list(found)

    def set_test_ledger(self, entries: Iterable[Mapping[str, Any]]) -> None:
        """Keep all entries of the sealed test's ledger."""
        self._study.set_user_attr(_TEST_LEDGER, [dict(entry) for entry in entries])
