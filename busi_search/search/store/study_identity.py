"""What makes a study the same study, and in what one differs from what it was."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from busi_search.spec import EARLIER_RULE, OperatingRule, StudySpec, spec_json

# A section that studies of earlier versions lack.
_OPERATING_POINT = "operating_point"
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
