"""The search space: ranges and lists of values, each perhaps under a condition."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Self

from pydantic import Field, WithJsonSchema, model_validator

from busi_search.spec.strict import Scalar, Strict

_Number = Annotated[int | float, WithJsonSchema({"type": "number"})]
_Values = Annotated[
    list[Scalar],
    WithJsonSchema({"type": "array", "items": {"description": "values of the hyperparameter"}}),
]


class Condition(Strict):
    """A searched hyperparameter is sampled only where others have one of the named values."""

    only_if: dict[str, list[Scalar]] = Field(default_factory=dict)
    """Values of other hyperparameters under which this one is sampled.

    Where they differ it keeps its fixed value or its default. Among values of `weights`, `file`
    stands for any path.

    Default: no condition; every trial samples the hyperparameter.
    Example: freeze_depth = { low = 0, high = 5, only_if = { weights = ["imagenet", "file"] } }
    """

    def holds(self, known: Mapping[str, Any]) -> bool:
        """Return whether the condition holds for a configuration; ``file`` is any path."""
        return all(_matches(known[key], allowed) for key, allowed in self.only_if.items())


def _matches(value: Any, allowed: Sequence[Any]) -> bool:
    if value in allowed:
        return True
    weight_files = (".pth", ".pt", ".safetensors")
    return "file" in allowed and isinstance(value, str) and value.endswith(weight_files)


class Range(Condition):
    """A numeric interval; whole numbers at both ends mean an integer hyperparameter."""

    low: _Number
    """Lowest value of a range.

    Unit: that of the hyperparameter.
    Example: dropout = { low = 0.0, high = 0.6 }
    """

    high: _Number
    """Highest value of a range.

    Unit: that of the hyperparameter.
    Example: dropout = { low = 0.0, high = 0.6 }
    """

    log: bool = False
    """Whether each order of magnitude of the range is equally likely; `low` must be above 0.

    Default: off; it suits hyperparameters that act by their factor, such as the learning rate.
    Example: learning_rate = { low = 1e-4, high = 1e-2, log = true }
    """

    step: _Number | None = None
    """Distance between the values of a range; it cannot be combined with `log`.

    Unit: that of the hyperparameter.
    Default: 1 for whole numbers, otherwise any value of the range; the sampler `grid` needs one.
    Example: dropout = { low = 0.0, high = 0.6, step = 0.1 }
    """

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

    choices: _Values = Field(min_length=1)
    """Values of a list in its long form, which may have a condition.

    Example: batch_size = { choices = [16, 32], only_if = { architecture = ["small_cnn"] } }
    """

    @property
    def ends(self) -> list[Scalar]:
        """All values."""
        return self.choices


SearchSpace = dict[str, Range | Choice]
