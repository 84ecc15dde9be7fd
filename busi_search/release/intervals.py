"""A figure with its interval, and intervals that always contain their own figure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Figure:
    """A figure and its 95 % interval.

    Attributes:
        value: on the images as they are.
        ci95: lower and upper limit.
    """

    value: float
    ci95: tuple[float, float]

    def __format__(self, spec: str) -> str:
        """Write value and interval, each by ``spec``; a dash for what is not known."""
        if not np.isfinite(self.value):
            return "–"
        low, high = self.ci95
        if not (np.isfinite(low) and np.isfinite(high)):
            return f"{self.value:{spec}} (no interval: too few images)"
        return f"{self.value:{spec}} ({low:{spec}} to {high:{spec}})"


def percentiles(
    sample: npt.NDArray[np.float64], value: float = np.nan, num_groups: int = 0
) -> tuple[float, float]:
    """Return the middle 95 % of a bootstrap sample; what is not finite is left out.

    A share of 0 or 1 is the same in every resample, and its interval is not a point: then one end
    is the exact binomial bound (Clopper and Pearson 1934).

    Args:
        sample: (B,) the figure of each resample.
        value: the figure on the images as they are.
        num_groups: number of groups that a share of 0 or 1 is of; 0: the figure is no such share.

    Returns:
        Lower and upper limit; NaN where no resample gives the figure.
    """
    known = sample[np.isfinite(sample)]
    if len(known) == 0:
        return (np.nan, np.nan)
    low, high = (float(limit) for limit in np.quantile(known, [0.025, 0.975]))
    if low == high == value and num_groups > 0:
        bound = 0.025 ** (1 / num_groups)
        if value == 1.0:
            return (bound, 1.0)
        if value == 0.0:
            return (0.0, 1.0 - bound)
    return low, high


def interval_around(value: float, sample: npt.NDArray[np.float64]) -> tuple[float, float]:
    """Return the spread of a bootstrap sample, moved so that its median is the figure itself.

    A figure that grows with noise, such as a binned calibration error, is larger in almost every
    resample than on the images themselves, so that the plain percentiles lie beside it.

    Args:
        value: the figure on the images as they are.
        sample: (B,) the figure of each resample; what is not finite is left out.

    Returns:
        Lower and upper limit with ``low <= value <= high``; NaN where nothing is known.
    """
    known = sample[np.isfinite(sample)]
    if not np.isfinite(value) or len(known) == 0:
        return (np.nan, np.nan)
    low, middle, high = np.quantile(known, [0.025, 0.5, 0.975])
    return (float(value + low - middle), float(value + high - middle))


def with_intervals(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Return figures by name, intervals as ``NAME_ci95``; null for what is not known."""
    rows: dict[str, Any] = {}
    for name, figure in figures.items():
        rows[name] = finite(figure.value)
        rows[f"{name}_ci95"] = [finite(limit) for limit in figure.ci95]
    return rows


def finite(value: float) -> float | None:
    """Return a figure for JSON, which knows no NaN: None where it is not known."""
    return float(value) if np.isfinite(value) else None
