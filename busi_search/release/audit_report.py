"""The bias of the corrected score in repeated searches, and the coverage of its interval."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm, t

from busi_search.models.ensemble import average_models
from busi_search.release.intervals import finite
from busi_search.release.selection import NORMAL_97_5, Estimate, bias_corrected_estimates

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Repeat:
    """One repeated search, and what its winner gave on the outer part.

    Attributes:
        number: from 0.
        num_inner, num_outer: images that the search saw, and that it did not.
        num_outer_groups: groups of the outer part, patients where they are known.
        trials: finished ones of the repeated search.
        winner: number of the chosen trial.
        corrected: the objective, corrected by the repeated search, and as found (``naive``).
        outer: mean over the winner's fold models on the outer part, which is what a cross-validated
            figure is of, with the outer part's own sampling error.
        ensemble: the same of the fold models' average, which is what a study registers.
        rebuilt_difference: largest difference of a probability when the winner was trained again.
    """

    number: int
    num_inner: int
    num_outer: int
    num_outer_groups: int
    trials: int
    winner: int
    corrected: Estimate
    outer: Estimate
    ensemble: Estimate
    rebuilt_difference: float

    @property
    def held(self) -> bool:
        """Whether the promised interval holds the figure of the outer part."""
        return self.corrected.low <= self.outer.value <= self.corrected.high

    @property
    def agrees(self) -> bool:
        """Whether the two differ by no more than both errors together explain (MOVER, 95 %)."""
        apart = self.outer.value - self.corrected.value
        if apart > 0:
            ours, theirs = (
                self.corrected.high - self.corrected.value,
                self.outer.value - self.outer.low,
            )
        else:
            ours, theirs = (
                self.corrected.value - self.corrected.low,
                self.outer.high - self.outer.value,
            )
        return abs(apart) <= math.hypot(ours, theirs)

    @property
    def expected_to_hold(self) -> float:
        """Chance that the interval holds the outer figure if the promise is right.

        Below 95 %, for the outer part has an error of its own.
        """
        ours = self.corrected.high - self.corrected.low
        theirs = self.outer.high - self.outer.low
        both = math.hypot(ours, theirs)
        if not both > 0:
            return math.nan
        return float(2 * norm.cdf(NORMAL_97_5 * ours / both) - 1)

    def to_json(self) -> dict[str, Any]:
        """Return the repeat; :meth:`from_json` reads it."""
        plain = {k: v for k, v in asdict(self).items() if not isinstance(v, dict)}
        return plain | {
            "corrected": self.corrected.to_json(),
            "outer": _only_known(self.outer),
            "ensemble": _only_known(self.ensemble),
            "held": self.held,
            "agrees": self.agrees,
        }

    @staticmethod
    def from_json(found: dict[str, Any]) -> "Repeat":
        """Return the repeat that :meth:`to_json` wrote.

        Raises:
            KeyError: or TypeError, ValueError: it is none.
        """
        plain = {k: v for k, v in found.items() if k not in ("held", "agrees")}
        estimates = {
            name: Estimate.from_json({"naive": plain[name]["value"], **plain[name]})
            for name in ("corrected", "outer", "ensemble")
        }
        return Repeat(**{**plain, **estimates})


def _only_known(estimate: Estimate) -> dict[str, float | None]:
    """Nothing was chosen on the outer part, so its figure is not corrected."""
    return {k: v for k, v in estimate.to_json().items() if k != "naive"}


@dataclass(frozen=True)
class Bias:
    """By how much a score was above what the outer parts gave, on average over repeats.

    Attributes:
        mean: above 0: the score was too high (for losses: too low is below 0).
        ci95: Student's interval of the mean over rounds; every round shows each image outside once,
            so that the luck of a single outer part cancels. NaN with fewer than two whole rounds.
        spread: standard deviation over repeats; most of it is the outer part's sampling error.
    """

    mean: float
    ci95: tuple[float, float]
    spread: float

    def to_json(self) -> dict[str, Any]:
        """Return the bias, null for what is not known."""
        return {
            "mean": finite(self.mean),
            "ci95": [finite(limit) for limit in self.ci95],
            "spread": finite(self.spread),
        }


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        study: name.
        objective: what the searches optimised, and what all figures here are.
        num_trials: finished trials of each repeated search.
        parts: outer parts of a round.
        scope: for whom the figures are, see :attr:`~busi_search.data.groups.Groups.scope`.
        repeats: by number.
    """

    study: str
    objective: str
    num_trials: int
    parts: int
    scope: str
    repeats: tuple[Repeat, ...]

    @property
    def num_held(self) -> int:
        """How many corrected intervals held what the outer part gave."""
        return sum(repeat.held for repeat in self.repeats)

    @property
    def num_agree(self) -> int:
        """How many differed by no more than both errors together explain; 95 % should."""
        return sum(repeat.agrees for repeat in self.repeats)

    @property
    def expected_share(self) -> float:
        """Share of intervals that should hold the outer figure if the promise is right."""
        return float(np.mean([repeat.expected_to_hold for repeat in self.repeats]))

    @property
    def corrected_bias(self) -> Bias:
        """Of the corrected score."""
        return self._bias([r.corrected.value - r.outer.value for r in self.repeats])

    @property
    def found_bias(self) -> Bias:
        """Of the score as found, which is optimistic."""
        return self._bias([r.corrected.naive - r.outer.value for r in self.repeats])

    @property
    def ensemble_bias(self) -> Bias:
        """Of the corrected score as a promise about the average of the fold models."""
        return self._bias([r.corrected.value - r.ensemble.value for r in self.repeats])

    def _bias(self, differences: Sequence[float]) -> Bias:
        values = np.array(differences, dtype=np.float64)
        whole = len(values) // self.parts
        limits = (math.nan, math.nan)
        if whole >= 2:
            rounds = values[: whole * self.parts].reshape(whole, self.parts).mean(axis=1)
            width = float(t.ppf(0.975, whole - 1) * rounds.std(ddof=1) / math.sqrt(whole))
            limits = (float(rounds.mean()) - width, float(rounds.mean()) + width)
        spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        return Bias(float(values.mean()), limits, spread)

    def to_json(self) -> dict[str, Any]:
        """Return the audit as ``busi-search audit --json`` prints it."""
        return {
            "study": self.study,
            "objective": self.objective,
            "trials": self.num_trials,
            "num_repeats": len(self.repeats),
            "parts_of_a_round": self.parts,
            "scope": self.scope,
            "corrected": {
                "bias": self.corrected_bias.to_json(),
                "held": self.num_held,
                "expected_share": finite(self.expected_share),
                "agrees": self.num_agree,
            },
            "found": {"bias": self.found_bias.to_json()},
            "ensemble": {"bias": self.ensemble_bias.to_json()},
            "repeats": [repeat.to_json() for repeat in self.repeats],
        }


def outer_estimates(
    models: Array,
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    metric: str,
    positive: int,
    seed: int,
) -> tuple[Estimate, Estimate]:
    """Return a metric of fold models on images that none of them saw, with its sampling error.

    Args:
        models: (M, N, C) probabilities of M fold models.
        labels: (N,) integers.
        groups: (N,) groups of images that are not independent.
        metric: its name.
        positive: for C = 2, the class that binary figures are about.
        seed: of the jackknife's parts.

    Returns:
        The mean over the models, and that of their average; nothing was chosen here, so ``value``
        is ``naive``. The interval is the jackknife's over groups, the same group left out of every
        model.
    """
    number = len(models)

    def estimate(rows: Array, copies: int) -> Estimate:
        return bias_corrected_estimates(
            np.tile(labels, copies),
            rows.reshape(1, copies * len(labels), -1),
            metrics=(metric,),
            select_by=metric,
            groups=np.tile(groups, copies),
            folds=np.repeat(np.arange(copies), len(labels)),
            positive=positive,
            seed=seed,
        )[metric]

    return estimate(models, number), estimate(average_models(models), 1)
