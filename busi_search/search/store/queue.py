"""Who works on which trial, whether they are still alive, and what becomes of lost trials."""

import os
import platform
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import BaseHeartbeat, is_heartbeat_enabled
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.records import ERROR, LOST, num_stored_folds, worker_of

MAX_LOSSES_AT_ONE_FOLD = 3


def this_machine() -> str:
    """Return a name under which process numbers mean the same: a container is its own machine."""
    try:
        namespace = os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return platform.node()
    return f"{platform.node()}:{namespace}"


def this_worker() -> str:
    """Return the name under which this process works on trials: machine/process.start."""
    return _worker_name(os.getpid())


def _worker_name(process: int) -> str:
    return f"{this_machine()}/{process}.{_start_of(process)}"


def readable_worker(name: str) -> str:
    """Return a worker's name as people know it: machine and process number."""
    machine, _, process = name.rpartition("/")
    return f"{machine.partition(':')[0]}/{process.partition('.')[0]}"


def _start_of(process: int) -> str:
    """Return when a process began, in ticks since the machine did; process numbers come again."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    # The second field is a name in brackets, which may hold anything; the start is the 22nd.
    return stat.rpartition(")")[2].split()[19]


def is_alive_here(name: str) -> bool | None:
    """Return whether a worker of this machine is alive, or None for one of another machine."""
    machine, _, process = name.rpartition("/")
    if machine != this_machine():
        return None
    number, _, start = process.partition(".")
    if not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return _start_of(int(number)) == start


def put_back_lost(
    study: optuna.Study,
    storage: BaseStorage,
    lock: AbstractContextManager[Any],
    *,
    blame: bool = True,
    own: bool = False,
    trials: Sequence[FrozenTrial] | None = None,
) -> list[int]:
    """Put trials that nobody works on any more back into the queue, under their own numbers.

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
    study_id = storage.get_study_id_from_name(study.study_name)
    with lock:
        for trial in _lost_trials(study, storage, study.get_trials(deepcopy=False), own=own):
            trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
            if blame and (reason := _blame(storage, trial_id, trial)) is not None:
                storage.set_trial_user_attr(trial_id, ERROR, reason)
                storage.set_trial_state_values(trial_id, TrialState.FAIL)
                continue
            storage.set_trial_state_values(trial_id, TrialState.WAITING)
            numbers.append(trial.number)
    return numbers


def _lost_trials(
    study: optuna.Study, storage: BaseStorage, trials: Sequence[FrozenTrial], *, own: bool
) -> list[FrozenTrial]:
    running = [trial for trial in trials if trial.state == TrialState.RUNNING]
    if not running:
        return []
    stale = _stale_trials(storage, storage.get_study_id_from_name(study.study_name))
    return [trial for trial in running if _is_lost(trial, stale, own=own)]


def _stale_trials(storage: BaseStorage, study_id: int) -> set[int] | None:
    if not isinstance(storage, BaseHeartbeat) or not is_heartbeat_enabled(storage):
        return None
    return set(storage._get_stale_trial_ids(study_id))


def _is_lost(trial: FrozenTrial, stale: set[int] | None, *, own: bool) -> bool:
    name = worker_of(trial)
    if not name:
        # Claims are named under the lock: this one was never finished.
        return True
    alive = is_alive_here(name)
    if own and (name == this_worker() or (stale is None and alive is None)):
        return True
    return alive is False or (stale is not None and trial._trial_id in stale)


def _blame(storage: BaseStorage, trial_id: int, trial: FrozenTrial) -> str | None:
    """Count a loss; return why the trial must not be tried again, or None."""
    folds = num_stored_folds(trial)
    lost = trial.user_attrs.get(LOST, {})
    times = lost.get("times", 0) + 1 if lost.get("folds") == folds else 1
    storage.set_trial_user_attr(trial_id, LOST, {"folds": folds, "times": times})
    if times < MAX_LOSSES_AT_ONE_FOLD:
        return None
    return (
        f"WorkerLost: its worker died {times} times after {folds} finished fold(s), without an "
        "error of its own: out of memory, or a crash in a library"
    )


@contextmanager
def heartbeat(storage: BaseStorage, trial_id: int) -> Iterator[None]:
    """Show other machines that a trial is being worked on, as long as the context lasts."""
    if not isinstance(storage, BaseHeartbeat) or not is_heartbeat_enabled(storage):
        yield
        return
    ended, interval = threading.Event(), storage.get_heartbeat_interval()

    def beat() -> None:
        while not ended.wait(interval):
            # Optuna's own thread ends with the first error; an outage is no reason to stop.
            with suppress(Exception):
                storage.record_heartbeat(trial_id)

    thread = threading.Thread(target=beat, daemon=True, name="heartbeat")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1)


def workers_of(trials: list[FrozenTrial]) -> dict[str, int]:
    """Return who works on which trial, by readable name."""
    return {
        readable_worker(worker_of(trial) or "?"): trial.number
        for trial in trials
        if trial.state == TrialState.RUNNING
    }
