"""What a call of run_study ends with, as Python, JSON and a notebook have it."""

import math
from dataclasses import dataclass
from typing import Any

from busi_search.files import without_nan
from busi_search.release.intervals import with_intervals
from busi_search.release.registration import (
    Release,
)
from busi_search.report.notebook import result_html
from busi_search.search.context import StudyContext
from busi_search.search.progress import SearchProgress
from busi_search.wording import count_of


@dataclass(frozen=True)
class StudyResult:
    """What a call of :func:`run_study` ends with.

    Attributes:
        context: the study.
        progress: where the search stands.
        release: the registered winner; None if trials are missing or none is complete.
        experiment_id, run_id: of the study in MLflow.
        cost: what it took so far, over all calls.
        foreign: numbers of trials that another program or study made, which are ignored.
    """

    context: StudyContext
    progress: SearchProgress
    release: Release | None
    experiment_id: str
    run_id: str
    cost: dict[str, float]
    foreign: tuple[int, ...] = ()

    def __repr__(self) -> str:
        best = "no winner yet" if self.release is None else f"trial {self.release.trial} is best"
        trials = count_of(self.progress.finished, "finished trial")
        return f"<StudyResult {self.context.name!r}: {trials}; {best}>"

    def _repr_html_(self) -> str:
        """Return the result as a notebook shows it."""
        simulated = self.context.development.simulated
        return result_html(self.context.name, self.progress, self.release, simulated=simulated)

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``busi-search run --json`` prints it."""
        counts, release = self.context.counts, self.release
        result: dict[str, Any] = {
            "study": self.context.name,
            "experiment_id": self.experiment_id,
            "run_id": self.run_id,
            "dataset": {
                "name": self.context.development.name,
                "fingerprint": self.context.partition.fingerprint,
                **counts,
                "simulated": self.context.development.simulated,
            },
            "trials": {
                "complete": self.progress.complete,
                "pruned": self.progress.pruned,
                "failed": self.progress.failed,
            },
            "foreign_trials": list(self.foreign),
            "best": None,
            "corrected": None,
            "calibration": None,
            "model": None,
            "cost": self.cost,
        }
        if release is not None:
            objective = self.context.spec.study.objective
            estimate = release.estimate
            result["best"] = {
                "trial": release.trial,
                "params": release.params,
                **{k: v if math.isfinite(v) else None for k, v in release.metrics.items()},
            }
            result["corrected"] = {
                objective: estimate.value,
                "ci95": [estimate.low, estimate.high],
                "metrics": {
                    f"cv_{name}": found.to_json() for name, found in release.estimates.items()
                },
            }
            result["calibration"] = {
                "temperature": release.temperature,
                **with_intervals(release.calibration),
            }
            if release.sites:
                result["sites"] = [site.to_json() for site in release.sites]
            result["model"] = {
                "name": release.version.name,
                "version": release.version.version,
                "alias": "candidate" if "candidate" in release.version.aliases else None,
            }
        cleaned: dict[str, Any] = without_nan(result)
        return cleaned
