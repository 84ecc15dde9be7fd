"""Which trial is next, which worker has it, and how lost trials are requeued."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.failures import failing
from busi_search.search.store.foreign import is_foreign
from busi_search.search.store.heartbeat import (
    is_shared,
    is_silent,
    record_heartbeat,
    server_seconds,
)
from busi_search.search.store.records import (
    ERROR,
    LOST,
    WORKER,
    last_heartbeat,
    losses,
    num_finished,
    num_stored_folds,
    worker_of,
)
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.store.workers import is_alive_here, this_worker
from busi_search.wording import count_of

MAX_LOSSES_AT_ONE_FOLD = 3

Lock = AbstractContextManager[Any]


@dataclass(frozen=True)
class Claim:
    """A trial that a worker took to work on.

    Attributes:
        trial: as Optuna hands it out.
        storage: where it is kept.
        trial_id: its name there.
        worker: who took it.
    """

    trial: optuna.Trial
    storage: BaseStorage
    trial_id: int
    worker: str

    def frozen(self) -> FrozenTrial:
        """Return the trial as it is stored now."""
        return self.storage.get_trial(self.trial_id)

    def is_mine(self) -> bool:
        """Return whether the trial is still this worker's to work on."""
        return _is_owner(self.storage, self.trial_id, self.worker)


def _is_owner(storage: BaseStorage, trial_id: int, worker: str) -> bool:
    trial = storage.get_trial(trial_id)
    return trial.state == TrialState.RUNNING and worker_of(trial) == worker


def claim_trial(
    study: optuna.Study, storage: BaseStorage, lock: Lock, *, target: int, worker: str = ""
) -> Claim | None:
    """Take the next trial to work on, or None when enough are finished or under way, or all fail.

    Waiting trials come first: those asked for by name, and those whose worker was lost.

    Args:
        study: the study.
        storage: its storage.
        lock: the claim lock, held while counting and claiming, so that workers do not overshoot.
        target: total number of trials to finish.
        worker: who takes it; written before anybody can see the trial as taken.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    sizes = StudyRecord(study).fold_sizes
    with lock:
        while True:
            trials = study.get_trials(deepcopy=False)
            running = sum(trial.state == TrialState.RUNNING for trial in trials)
            finished = num_finished(t for t in trials if not is_foreign(t, sizes))
            if finished + running >= target or failing(study, trials):
                return None
            trial_id = _take_waiting(storage, study_id, trials, worker)
            if trial_id is None:
                trial_id = storage.create_new_trial(study_id)
                _sign(storage, trial_id, worker)
            # A server that restarts forgets who held the lock: somebody may have been quicker.
            if not is_shared(storage) or _is_owner(storage, trial_id, worker):
                return Claim(optuna.Trial(study, trial_id), storage, trial_id, worker)


def _take_waiting(
    storage: BaseStorage, study_id: int, trials: Sequence[FrozenTrial], worker: str
) -> int | None:
    for trial in trials:
        if trial.state == TrialState.WAITING:
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            _sign(storage, trial_id, worker)
            if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
                return trial_id
    return None


def _sign(storage: BaseStorage, trial_id: int, worker: str) -> None:
    # The heartbeat first: nobody may think that the last owner's heart is still to be heard.
    record_heartbeat(storage, trial_id)
    storage.set_trial_user_attr(trial_id, WORKER, worker)


def put_back_lost(
    study: optuna.Study,
    storage: BaseStorage,
    lock: Lock,
    *,
    blame: bool = True,
    own: bool = False,
    trials: Sequence[FrozenTrial] | None = None,
) -> list[int]:
    """Put trials that lost their worker back into the queue, under their own numbers.

    A worker of this machine is asked for by its process; one of another machine counts as lost
    when its heartbeat stopped. Finished folds are kept.

    Args:
        study: the study.
        storage: its storage.
        lock: the claim lock, so that no trial is seen between its claim and its owner's name.
        blame: a trial that loses its worker three times at the same fold (out of memory, a crash
            in a library) is FAILED: it would never end. False where workers were ended on purpose.
        own: for a driver that begins or ends: this process's own trials go back too, and, on a
            storage without heartbeats (a file), those of other machines, for there are none.
        trials: the study's, where the caller has just read them.

    Returns:
        Numbers of the trials put back.
    """
    # The lock holds up claims: most of the time there is no need of it.
    if trials is None:
        trials = study.get_trials(deepcopy=False)
    if not _lost_trials(study, storage, trials, own=own):
        return []
    numbers = []
    with lock:
        for trial in _lost_trials(study, storage, study.get_trials(deepcopy=False), own=own):
            trial_id = _id_of(study, storage, trial)
            if blame and (reason := _blame(storage, trial_id, trial)) is not None:
                storage.set_trial_user_attr(trial_id, ERROR, reason)
                storage.set_trial_state_values(trial_id, TrialState.FAIL)
                continue
            storage.set_trial_state_values(trial_id, TrialState.WAITING)
            numbers.append(trial.number)
    return numbers


def _id_of(study: optuna.Study, storage: BaseStorage, trial: FrozenTrial) -> int:
    study_id = storage.get_study_id_from_name(study.study_name)
    return storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)


def _lost_trials(
    study: optuna.Study, storage: BaseStorage, trials: Sequence[FrozenTrial], *, own: bool
) -> list[FrozenTrial]:
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    if not running:
        return []
    now = server_seconds(storage)
    if now is not None:
        _listen_for_all(study, storage, running)
    return [trial for trial in running if _is_lost(trial, now, own=own)]


def _listen_for_all(
    study: optuna.Study, storage: BaseStorage, running: Sequence[FrozenTrial]
) -> None:
    """Begin to count for trials whose workers never gave a sign: those of an earlier version."""
    for trial in running:
        if worker_of(trial) and last_heartbeat(trial) is None:
            with suppress(UpdateFinishedTrialError):
                record_heartbeat(storage, _id_of(study, storage, trial))


def _is_lost(trial: FrozenTrial, now: float | None, *, own: bool) -> bool:
    """Return whether a trial has no worker; ``now`` is None where there are no heartbeats."""
    name = worker_of(trial)
    if not name:
        # Claims are named under the lock: this one was never finished.
        return True
    alive = is_alive_here(name)
    if own and (name == this_worker() or (now is None and alive is None)):
        return True
    return alive is False or (now is not None and is_silent(trial, now))


def _blame(storage: BaseStorage, trial_id: int, trial: FrozenTrial) -> str | None:
    """Count a loss; return why the trial must not be tried again, or None."""
    folds, lost = num_stored_folds(trial), losses(trial)
    times = lost.get("times", 0) + 1 if lost.get("folds") == folds else 1
    storage.set_trial_user_attr(trial_id, LOST, {"folds": folds, "times": times})
    if times < MAX_LOSSES_AT_ONE_FOLD:
        return None
    return (
        f"WorkerLost: its worker ended {times} times after {count_of(folds, 'finished fold')} "
        "without an error message, usually because memory ran out or a library crashed"
    )
