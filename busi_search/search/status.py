"""What a study holds, in one line; light to import, so that asking is quick."""

import json
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from busi_search.home import Home
from busi_search.search.liveness import workers_of
from busi_search.search.records import HYPERPARAMETERS, best_of_study, main_value
from busi_search.search.storage import open_storage


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
    """

    name: str
    states: dict[str, int]
    best: float | None
    best_trial: int | None
    best_params: dict[str, Any]
    objective: str
    simulated: bool
    workers: dict[str, int]


def study_status(study: optuna.Study) -> StudyStatus:
    """Summarise a study."""
    trials = study.get_trials(deepcopy=False)
    best = best_of_study(study)
    spec = (
        json.loads(study.user_attrs["identity"]["spec"]) if "identity" in study.user_attrs else {}
    )
    return StudyStatus(
        name=study.study_name,
        states={state.name.lower(): sum(t.state == state for t in trials) for state in TrialState},
        best=main_value(best) if best else None,
        best_trial=best.number if best else None,
        best_params=best.user_attrs.get(HYPERPARAMETERS, {}) if best else {},
        objective=spec.get("study", {}).get("objective", "cv_auc"),
        simulated=bool(study.user_attrs.get("simulated")),
        workers=workers_of(trials),
    )
