"""The driver of a search starts workers, watches them and keeps MLflow up to date; helpers join."""

import shlex
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.search.alive import sign_of_life
from busi_search.search.context import StudyContext
from busi_search.search.executors import Executor
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.progress import ProgressMeter, SearchProgress
from busi_search.search.samplers import num_possible_trials
from busi_search.search.seal_register import register_study
from busi_search.search.store.errors import check_storage, storage_errors
from busi_search.search.store.failures import MAX_FAILURES_IN_A_ROW, failing, forgive_failures
from busi_search.search.store.foreign import own_trials
from busi_search.search.store.identity import check_versions, create_study
from busi_search.search.store.locks import claim_lock, only_driver, wait_for_old_workers
from busi_search.search.store.open import open_storage
from busi_search.search.store.queue import put_back_lost
from busi_search.search.store.records import num_finished
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.worker import search_worker

POLL_SECONDS = 0.5
# Workers see within a second that nothing is left to do; one on a machine that is gone never does.
LEAVING_SECONDS = 10.0
# How the last workers died, in a message; the others as a rule died alike.
MAX_PROBLEMS_SHOWN = 3


def run_search(
    context: StudyContext,
    executor: Executor,
    tracker: Tracker,
    *,
    num_trials: int,
    num_workers: int,
    timeout_seconds: float | None = None,
    worker_context: StudyContext | None = None,
) -> Generator[SearchProgress]:
    """Search until the study holds ``num_trials`` finished trials; yield where it stands.

    Results are written to the Optuna storage by the workers, fold by fold, and copied to MLflow
    from here, trial by trial. Closing the iterator stops the workers and leaves a study that the
    same call resumes.

    Args:
        context: the study.
        executor: where the workers run.
        tracker: writes to MLflow; closed in the end, open again by its ``start``.
        num_trials: total number of trials to finish (COMPLETE or PRUNED).
        num_workers: workers at once; 0 leaves the work to those that join.
        timeout_seconds: stop after this time even if trials are missing.
        worker_context: the study as workers see it, where they have another device or no files.

    Raises:
        InputError: the study exists but is another one, or is being searched right now.
        BusiSearchError: trials fail one after the other.
    """
    with ExitStack() as stack:
        stack.enter_context(only_driver(context.home, context.name))
        stack.enter_context(storage_errors(context.home))
        wait_for_old_workers(context.home, context.name)
        check_storage(context.home)
        storage = open_storage(context.home)
        study = create_study(context, storage)
        register_study(context, study)
        lock = claim_lock(context.home, context.name)
        put_back_lost(study, storage, lock, blame=False, own=True)
        forgive_failures(study)
        target = min(num_trials, num_possible_trials(context.spec) or num_trials)
        StudyRecord(study).set_target(target)
        started, show_alive = time.monotonic(), stack.enter_context(sign_of_life())
        meter = ProgressMeter(context, target, own_trials(study))
        missing = max(0, target - meter.before)
        alive = min(num_workers, missing)
        if missing > 0:
            check_versions(study)
            # Closed in the opposite order: first the workers end, then MLflow is told.
            stack.push(partial(_close_tracker, tracker, study, target))
            stack.callback(_wind_up, executor, study, storage, lock)
            executor.start(partial(search_worker, worker_context or context, False), alive)
        # Workers import and train while MLflow, slow to start, gets ready.
        tracker.start(study)
        if missing > 0:
            tracker.mark("searching")
        in_time, last_work = True, time.monotonic()
        while missing > 0 and in_time and (alive > 0 or _others_work(study, num_workers, target)):
            alive = _poll(executor, alive, show_alive)
            trials = own_trials(study)
            if put_back_lost(study, storage, lock, trials=trials):
                trials = own_trials(study)
            tracker.log_trials(trials)
            progress = meter.measure(
                trials,
                workers=alive,
                unsent=_num_unsent(tracker, trials),
                search_seconds=_seconds_left(started, timeout_seconds),
            )
            yield progress
            if progress.finished < target:
                last_work = time.monotonic()
            elif time.monotonic() - last_work > LEAVING_SECONDS:
                break
            in_time = _seconds_left(started, timeout_seconds) != 0
        _wind_up(executor, study, storage, lock)
        trials = own_trials(study)
        tracker.log_trials(trials, last=True)
        progress = meter.measure(
            trials, workers=0, unsent=_num_unsent(tracker, trials), search_seconds=0.0
        )
        yield progress
        reason = failing(study)
        if reason is not None:
            raise BusiSearchError(
                f"The last trials, {MAX_FAILURES_IN_A_ROW} or more in a row, failed, so the search "
                f"stopped: {reason}"
            )
        if in_time and progress.finished < target:
            raise _lost_workers(context.home, study, executor, progress.finished, target)


def _seconds_left(started: float, timeout_seconds: float | None) -> float | None:
    if timeout_seconds is None:
        return None
    return max(0.0, timeout_seconds - (time.monotonic() - started))


def _poll(executor: Executor, alive: int, show_alive: Callable[[], None]) -> int:
    show_alive()
    if alive == 0:
        # Nobody of ours is left to wait for; others are.
        time.sleep(POLL_SECONDS)
        return 0
    return executor.poll(POLL_SECONDS)


def _others_work(study: optuna.Study, num_workers: int, target: int) -> bool:
    """Return whether workers of other machines are at it, or are what this search waits for."""
    if failing(study):
        return False
    if num_workers == 0:
        return num_finished(own_trials(study)) < target
    return bool(study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))


def _num_unsent(tracker: Tracker, trials: list[FrozenTrial]) -> int:
    return 0 if tracker.problem is None else tracker.num_unsent(trials)


def _wind_up(
    executor: Executor,
    study: optuna.Study,
    storage: BaseStorage,
    lock: AbstractContextManager[Any],
) -> None:
    executor.stop()
    put_back_lost(study, storage, lock, blame=False, own=True)


def _close_tracker(
    tracker: Tracker, study: optuna.Study, target: int, error: type[BaseException] | None, *_: Any
) -> None:
    finished = num_finished(own_trials(study))
    state = "searched" if finished >= target else "interrupted"
    tracker.mark(state, hurry=error is not None)


def join_search(
    context: StudyContext, executor: Executor, *, num_workers: int
) -> Generator[SearchProgress]:
    """Help a search that is driven elsewhere until it has its trials; yield where it stands.

    Args:
        context: the study, reopened on this machine.
        executor: where the workers run.
        num_workers: workers at once.

    Raises:
        InputError: the study was never searched, or with other versions than those here.
        BusiSearchError: all workers of this machine died, or trials fail one after the other.
    """
    with ExitStack() as stack:
        show_alive = stack.enter_context(sign_of_life())
        stack.enter_context(storage_errors(context.home))
        storage = open_storage(context.home)
        study = optuna.load_study(study_name=context.name, storage=storage)
        target = StudyRecord(study).target
        if target is None:
            raise InputError(
                f"Study '{context.name}' has not been searched yet; start it with `busi-search "
                f"run`, and then `busi-search worker {shlex.quote(context.name)}` helps."
            )
        check_versions(study)
        lock = claim_lock(context.home, context.name)
        stack.callback(put_back_lost, study, storage, lock, blame=False)
        stack.callback(executor.stop)
        meter = ProgressMeter(context, target, own_trials(study))
        executor.start(partial(search_worker, context, True), num_workers)
        alive = num_workers
        while alive > 0:
            show_alive()
            alive = executor.poll(POLL_SECONDS)
            put_back_lost(study, storage, lock)
            yield meter.measure(own_trials(study), workers=alive)
        progress = meter.measure(own_trials(study), workers=0)
        yield progress
        reason = failing(study)
        if reason is not None:
            raise BusiSearchError(f"The search stopped because its last trials failed: {reason}")
        if progress.finished < (StudyRecord(study).target or 0):
            raise _lost_workers(context.home, study, executor, progress.finished, target)


def _lost_workers(
    home: Home, study: optuna.Study, executor: Executor, finished: int, target: int
) -> BusiSearchError:
    """Return why all workers ended before the study held its trials.

    Raises:
        BusiSearchError: the storage cannot be written to; that is why.
    """
    with storage_errors(home):
        StudyRecord(study).set_missing(target - finished)
    latest = list(dict.fromkeys(reversed(executor.problems)))[:MAX_PROBLEMS_SHOWN]
    known = f" ({'; '.join(latest)})" if latest else ""
    return BusiSearchError(
        f"All workers exited with {finished} of {target} trials finished{known}, usually because "
        "memory ran out; run the same command again with fewer --workers."
    )
