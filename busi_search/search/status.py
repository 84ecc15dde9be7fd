"""What a study holds, in one line; light to import, so that asking is quick."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.data.known_images import KnownImages
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.search.expected_cost import NUM_RECENT, Costs, trial_cost
from busi_search.search.progress import TrialCounts
from busi_search.search.store.foreign import foreign_sentence, foreign_trials, own_trials
from busi_search.search.store.heartbeat import is_silent, server_seconds
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.records import (
    is_finished,
    last_failure,
    main_value,
    stored_hyperparameters,
    worker_of,
)
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.store.workers import is_alive_here, workers_of
from busi_search.spec import StudySection


def list_studies(home: Home) -> list["StudyStatus"]:
    """Return the studies that were run on a home, in alphabetical order."""
    storage = open_storage(home)
    names = sorted(optuna.get_all_study_names(storage))
    known = KnownImages(home)
    now = server_seconds(storage)
    return [
        study_status(optuna.load_study(study_name=name, storage=storage), known, now=now)
        for name in names
    ]


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
        workers: workers that are alive, as machine/process, and the number of their trial.
        interrupted: numbers of the trials that lost their worker; the next run resumes them.
        target: total number of trials to finish, or None.
        remaining_seconds: estimated time until then; None if no worker is alive or nothing is
            known to estimate it from.
        last_failure: number and error of the latest failed trial, or None.
        num_test: images of the sealed test; None if the study does not record it.
        num_test_not_independent: how many of these other studies of the home developed on; None
            if unknown.
        foreign: numbers of trials that another program or study made, which are ignored.
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
    num_test: int | None
    num_test_not_independent: int | None
    foreign: list[int] = field(default_factory=list)
    interrupted: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the line as ``busi-search status --json`` prints it."""
        return asdict(self)


def study_status(
    study: optuna.Study, known: KnownImages | None = None, *, now: float | None = None
) -> StudyStatus:
    """Summarise a study.

    Args:
        study: the study.
        known: the home's register of images; None takes what the study noted itself.
        now: the time by the clock of the storage's server, see :func:`.heartbeat.server_seconds`;
            None: workers of other machines count as alive.
    """
    trials, foreign = own_trials(study), foreign_trials(study)
    record = StudyRecord(study)
    identity, target = record.identity, record.target
    interrupted = [trial.number for trial in trials if _lost_its_worker(trial, now)]
    workers = workers_of(trial for trial in trials if trial.number not in set(interrupted))
    num_folds = identity.num_folds if identity is not None else 1
    counts = TrialCounts().with_these(trials, num_folds, study.directions[0].name.lower())
    best, remaining = counts.best, None
    if workers and counts.finished < (target or 0):
        pace = _pace(trials, num_folds, counts.costs)
        if pace is not None:
            remaining = counts.seconds_left(target or 0, num_folds, pace / len(workers))
            remaining += counts.winner_seconds(num_folds)
    return StudyStatus(
        name=study.study_name,
        states={state.name.lower(): counts.trials[state] for state in TrialState},
        best=main_value(best) if best else None,
        best_trial=best.number if best else None,
        best_params=stored_hyperparameters(best) if best else {},
        objective=identity.objective if identity is not None else StudySection().objective,
        simulated=record.simulated,
        workers=workers,
        target=target,
        remaining_seconds=remaining,
        last_failure=last_failure(trials),
        num_test=record.counts.get("num_test"),
        num_test_not_independent=_num_not_independent(record, study.study_name, known),
        foreign=foreign,
        interrupted=interrupted,
    )


def _lost_its_worker(trial: FrozenTrial, now: float | None) -> bool:
    """Return whether a running trial's worker is known to be gone."""
    if trial.state != TrialState.RUNNING:
        return False
    worker = worker_of(trial)
    if worker is not None and is_alive_here(worker) is not None:
        return not is_alive_here(worker)
    return now is not None and is_silent(trial, now)


def clock_of(home: Home) -> float | None:
    """Return the time by the clock of the server that a home's studies are on; None for a file."""
    return None if home.has_local_storage else server_seconds(open_storage(home))


def foreign_note(home: Home, name: str) -> str | None:
    """Return which trials of a study were made elsewhere; None where none was, or no such study."""
    try:
        numbers = foreign_trials(find_study(home, name))
    except InputError:
        return None
    return f"{foreign_sentence(numbers)}." if numbers else None


def _num_not_independent(record: StudyRecord, name: str, known: KnownImages | None) -> int | None:
    """Return how many sealed images others developed on, as of now where the home knows them."""
    partition = record.identity.partition if record.identity is not None else None
    for member in known.memberships if known is not None else ():
        if (member.study, member.partition) == (name, partition) and known is not None:
            return len(known.developed_elsewhere(member))
    return record.counts.get("num_test_not_independent")


def _pace(trials: Sequence[FrozenTrial], num_folds: int, costs: Costs) -> float | None:
    """Return how long a trial lasts for each second's work in it, or None for want of trials."""
    recent = [t for t in trials if is_finished(t) and t.duration is not None][-NUM_RECENT:]
    work = [costs.of(trial_cost(trial, num_folds)) for trial in recent]
    if sum(work) == 0:
        return None
    spans = [trial.duration.total_seconds() for trial in recent if trial.duration is not None]
    # A trial that a stopped search left and another took up looks as long as the time between.
    longest = [5 * statistics.median(spans)] * len(spans)
    if any(costs.timed.values()):
        # One kind may take a hundred times as long as another: each is judged by its own folds.
        longest = [5 * done for done in work]
    return sum(map(min, spans, longest)) / sum(work)
