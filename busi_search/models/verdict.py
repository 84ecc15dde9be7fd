"""What the operating point of a model says of an image."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class OperatingPoint:
    """From which probability on an image is called positive, and how often that was right.

    Attributes:
        class_names: C names.
        positive_class: the one that an image is called, or not.
        threshold: probability of that class from which an image is called so.
        rule: what the threshold was chosen to reach, in words; None: not known.
        sensitivity, specificity: of the rule in cross-validation; None: not known.
        recalibrated_on: name of the images that it was set on later; None: it was not.
    """

    class_names: tuple[str, ...]
    positive_class: str
    threshold: float
    rule: str | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    recalibrated_on: str | None = None

    @classmethod
    def of_model(cls, metadata: Mapping[str, Any]) -> "OperatingPoint":
        """Return what is stored in a model's metadata."""
        recalibration = metadata.get("recalibration")
        return cls(
            class_names=tuple(metadata["class_names"]),
            positive_class=str(metadata["positive_class"]),
            threshold=float(metadata["operating_threshold"]),
            rule=metadata.get("operating_rule"),
            sensitivity=metadata.get("operating_sensitivity"),
            specificity=metadata.get("operating_specificity"),
            recalibrated_on=recalibration["data"]["name"] if recalibration else None,
        )

    @property
    def limits(self) -> str:
        """How often the rule was right, in words."""
        name, sensitivity, specificity = self.positive_class, self.sensitivity, self.specificity
        if sensitivity is None or specificity is None:
            return "This model does not record how often this rule is right."
        text = (
            f"In cross-validation this rule found {sensitivity:.0%} of the {name} images and "
            f"called {1 - specificity:.0%} of the others {name} too. "
        )
        if self.rule is None or self.recalibrated_on is not None:
            chosen_on = (
                "those images" if self.recalibrated_on is None
                else f"images of {self.recalibrated_on}"
            )  # fmt: skip
            return text + f"The rule was chosen on {chosen_on}; on new ones it may do worse."
        return text + (
            f"It was set for {self.rule}, each fold by the threshold of the other folds; at "
            "another hospital it may do worse."
        )


@dataclass(frozen=True)
class Verdict:
    """What the operating point says of an image.

    Attributes:
        text: the verdict as a sentence.
        positive_class: the class that the operating point is about.
        positive: whether the image is called so.
        probability: of that class, from 0 to 1.
        threshold: probability from which an image is called so.
        label: the class: the positive one, or else the most probable of the others.
        sensitivity, specificity: of the rule in cross-validation; None: not known.
        limits: these in words.
    """

    text: str
    positive_class: str
    positive: bool
    probability: float
    threshold: float
    label: str
    sensitivity: float | None
    specificity: float | None
    limits: str

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON shows it."""
        return asdict(self)


def judge(point: OperatingPoint, row: npt.NDArray[np.float32]) -> Verdict:
    """Return the verdict on an image.

    Args:
        point: the model's operating point.
        row: (C,) probabilities.
    """
    name, threshold = point.positive_class, point.threshold
    index = point.class_names.index(name)
    probability = float(row[index])
    positive = probability >= threshold
    others = [i for i in range(len(row)) if i != index]
    side = "at or above" if positive else "below"
    return Verdict(
        text=f"{'Called' if positive else 'Not called'} {name}: the probability {probability:.1%} "
        f"is {side} the operating point of {threshold:.1%}.",
        positive_class=name,
        positive=positive,
        probability=probability,
        threshold=threshold,
        label=name if positive else point.class_names[max(others, key=lambda i: row[i])],
        sensitivity=point.sensitivity,
        specificity=point.specificity,
        limits=point.limits,
    )
