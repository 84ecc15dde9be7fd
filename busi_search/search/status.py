"""What a study holds, in one line; light to import, so that asking is quick."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.home import Home
from busi_search.search.store.open import open_storage
from busi_search.search.store.queue import workers_of
from busi_search.search.store.records import (
    HYPERPARAMETERS,
    TARGET,
    best_of_study,
    last_failure,
    main_value,
)

# The time left is estimated from so many trials, those that finished last.
NUM_RECENT = 20


def list_studies(home: Home) -> list["StudyStatus"]:
    """Return the studies that were run on a home, in alphabetical order."""
    storage = open_storage(home)
    names = sorted(optuna.get_all_study_names(storage))
    return [study_status(optuna.load_study(study_name=name, storage=storage)) for name in names]


@dataclass(frozen=True)
class StudyStatus:
    """One line about a study.

    Attributes:
        name: of the study.
        states: number of trials by Optuna state.
        best: best value of a complete trial, or None.
        best_trial: its number, or None.
        best_params: its full configuration.
        objective: name of the optimised metric.
        simulated: whether its images are phantoms.
        workers: who works on which trial right now, machine/process to number.
        target: finished trials asked for, or None.
        remaining_seconds: estimate of the time until then; None where nobody works on it or
            nothing is to be estimated from.
        last_failure: number and error of the latest failed trial, or None.
    """

    name: str
    states: dict[str, int]
    best: float | None
    best_trial: int | None
    best_params: dict[str, Any]
    objective: str
    simulated: bool
    workers: dict[str, int]
    target: int | None
    remaining_seconds: float | None
    last_failure: str | None


def study_status(study: optuna.Study) -> StudyStatus:
    """Summarise a study."""
    trials = study.get_trials(deepcopy=False)
    best = best_of_study(study)
    spec = (
        json.loads(study.user_attrs["identity"]["spec"]) if "identity" in study.user_attrs else {}
    )
    workers = workers_of(trials)
    target = study.user_attrs.get(TARGET)
    return StudyStatus(
        name=study.study_name,
        states={state.name.lower(): sum(t.state == state for t in trials) for state in TrialState},
        best=main_value(best) if best else None,
        best_trial=best.number if best else None,
        best_params=best.user_attrs.get(HYPERPARAMETERS, {}) if best else {},
        objective=spec.get("study", {}).get("objective", "cv_auc"),
        simulated=bool(study.user_attrs.get("simulated")),
        workers=workers,
        target=target,
        remaining_seconds=_remaining_seconds(trials, target or 0, len(workers)),
        last_failure=last_failure(trials),
    )


def _remaining_seconds(
    trials: Sequence[FrozenTrial], target: int, num_workers: int
) -> float | None:
    finished = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    spans = [t.duration.total_seconds() for t in finished[-NUM_RECENT:] if t.duration is not None]
    if not spans or num_workers == 0 or len(finished) >= target:
        return None
    # A trial that a stopped search left and another took up looks as long as the time between.
    longest = 5 * statistics.median(spans)
    mean = statistics.fmean(min(span, longest) for span in spans)
    return (target - len(finished)) * mean / num_workers
