"""What a study keeps about itself in the Optuna storage, read and written in one place."""

import json
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

import optuna

from busi_search.data.classes import earlier_positive
from busi_search.search.store.study_identity import Identity
from busi_search.search.store.study_parts import (
    Cost,
    Explanations,
    ImagesAt,
    LearningCurve,
    LearningPoint,
    Released,
    Tracked,
)
from busi_search.spec import Gate

# Names under which old studies hold these, too.
_IDENTITY = "identity"
_SPEC_TEXT = "spec_text"
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
