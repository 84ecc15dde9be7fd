"""Sending MLflow what it missed while it was away."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import optuna
from optuna.trial import TrialState

from busi_search.errors import BusiSearchError, TrackingAway
from busi_search.home import Home
from busi_search.search.context import reopen_study
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.foreign import foreign_trials, own_trials
from busi_search.search.store.locks import claim_lock, only_driver, wait_for_old_workers
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.queue import put_back_lost
from busi_search.search.store.records import num_finished
from busi_search.search.store.study_record import StudyRecord


@dataclass(frozen=True)
class SyncedStudy:
    """What became of one study's copy in MLflow.

    Attributes:
        study: its name.
        num_sent: trials sent by this call.
        num_there: trials that were there before.
        problem: why it could not be brought up to date; None if it was.
        foreign: numbers of trials that another program or study made, which are not sent.
    """

    study: str
    num_sent: int
    num_there: int
    problem: str | None
    foreign: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return what became of it as ``busi-search sync --json`` prints it."""
        return asdict(self)


def sync_studies(home: Home, names: Sequence[str] | None = None) -> list[SyncedStudy]:
    """Bring the copies of studies in MLflow up to date; each trial is there once in the end.

    A study's run or experiment that was deleted in MLflow comes back.

    Args:
        home: where the stores are.
        names: studies; None means all of the home.

    Raises:
        InputError: no study of that name.
    """
    if names is None:
        with storage_errors(home):
            names = sorted(optuna.get_all_study_names(open_storage(home)))
    return [_sync(home, find_study(home, name)) for name in names]


def _sync(home: Home, study: optuna.Study) -> SyncedStudy:
    trials = study.get_trials(deepcopy=False)
    foreign = tuple(foreign_trials(study))
    ended = sum(trial.state.is_finished() for trial in trials) - len(foreign)
    if not StudyRecord(study).has_begun:
        return SyncedStudy(study.study_name, 0, 0, None)
    try:
        before, sent = _bring_up_to_date(home, study)
    except BusiSearchError as error:
        return SyncedStudy(study.study_name, 0, 0, str(error))
    return SyncedStudy(study.study_name, sent, ended - before, None, foreign)


def _bring_up_to_date(home: Home, study: optuna.Study) -> tuple[int, int]:
    """Return how many trials were missing and how many were sent."""
    with only_driver(home, study.study_name), storage_errors(home):
        put_back_orphans(home, study)
        tracker = Tracker(reopen_study(study, home=home))
        tracker.start(study)
        trials = study.get_trials(deepcopy=False)
        if tracker.problem is not None:
            raise TrackingAway(tracker.problem)
        before = tracker.num_unsent(trials)
        tracker.log_trials(trials, last=True)
        tracker.mark(state_of(study))
        if tracker.problem is not None:
            raise TrackingAway(tracker.problem)
        # The run may be new: it is told of the ledger, too.
        SealLedger(home, study.study_name).entries()
        return before, before - tracker.num_unsent(trials)


def put_back_orphans(home: Home, study: optuna.Study) -> list[int]:
    """Put RUNNING trials without a worker back into the queue."""
    if home.has_local_storage:
        wait_for_old_workers(home, study.study_name)
    lock = claim_lock(home, study.study_name)
    return put_back_lost(study, open_storage(home), lock, blame=False)


def state_of(study: optuna.Study) -> str:
    """Return the state of a study: complete, searched or interrupted."""
    trials = own_trials(study)
    finished = num_finished(trials)
    released = StudyRecord(study).released
    if released is not None and released.finished == finished:
        return "complete"
    begun = any(trial.state in (TrialState.RUNNING, TrialState.WAITING) for trial in trials)
    return "interrupted" if begun or finished == 0 else "searched"
