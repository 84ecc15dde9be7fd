"""The section [operating_point] of a study file."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from busi_search.spec.strict import Strict


class OperatingRule(Strict):
    """Threshold: the probability from which an image is called positive (malignant)."""

    rule: Literal["sensitivity", "specificity", "net_benefit"] = "sensitivity"
    """What the threshold has to reach on the out-of-fold predictions.

    `sensitivity`: as few false alarms as possible while the share `at_least` of the cancers is
    found. `specificity`: as many cancers as possible while the share `at_least` of the others is
    cleared. `net_benefit`: the highest net benefit at `threshold_probability`.

    The reported figures of the rule are cross-fitted: each fold is classified by the threshold of
    the other folds.

    Default: a missed cancer costs a patient more than a false alarm does.
    Example: rule = "specificity"
    """

    at_least: float = Field(default=0.95, gt=0, lt=1)
    """The sensitivity or specificity that the rule asks for.

    Unit: a share of the malignant images, or of the others.
    Default: radiologists who read breast ultrasound find nineteen cancers of twenty or more.
    Example: at_least = 0.9
    """

    threshold_probability: float | None = Field(default=None, gt=0, lt=1)
    """Probability of cancer, t, from which one would act, for example take a biopsy.

    One missed cancer then weighs as much as (1 - t) / t false alarms. `rule = "net_benefit"` needs
    it; the other rules do not use it.

    Unit: a probability.
    Default: none; there is no right one for every clinic.
    Example: rule = "net_benefit"
    threshold_probability = 0.02
    """

    @model_validator(mode="after")
    def _complete(self) -> Self:
        needs = self.rule == "net_benefit"
        if needs and self.threshold_probability is None:
            raise ValueError(
                'rule = "net_benefit" needs threshold_probability, such as 0.02: the probability '
                "from which one would act"
            )
        if not needs and self.threshold_probability is not None:
            raise ValueError(
                f'threshold_probability belongs to rule = "net_benefit", and the rule is '
                f'"{self.rule}"'
            )
        return self

    def in_words(self, positive: str) -> str:
        """Return the rule as a sentence says it.

        Args:
            positive: name of the positive class.
        """
        if self.rule == "net_benefit":
            return (
                f"the highest net benefit at a threshold probability of "
                f"{self.threshold_probability:g}"
            )
        if self.rule == "sensitivity":
            return f"at least {self.at_least:.0%} of the {positive} images found"
        return f"at least {self.at_least:.0%} of the images that are not {positive} cleared"


# What studies that began before there was this section go on with.
EARLIER_RULE: dict[str, Any] = {"rule": "specificity", "at_least": 0.9}
