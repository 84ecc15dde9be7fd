"""A study: created once, resumed by the same words, searched by workers."""

import json
import os
import platform
import time
import traceback
from collections.abc import Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from busi_search.errors import BusiSearchError, InputError
from busi_search.search.context import StudyContext
from busi_search.search.executors import Executor
from busi_search.search.faults import (
    MAX_FAILURES_IN_A_ROW,
    STORAGE_FAILURES,
    check_storage,
    check_versions,
    failing,
    forgive_failures,
    lost_workers,
    put_back_lost,
    storage_errors,
    this_worker,
)
from busi_search.search.locks import only_driver, wait_for_old_workers, worker_lock
from busi_search.search.objective import Objective
from busi_search.search.pruning import make_pruner
from busi_search.search.records import ERROR, best_trial, fold_key
from busi_search.search.samplers import make_sampler, num_possible_trials
from busi_search.search.space import recipe_trials
from busi_search.search.storage import (
    FINISHED,
    claim_lock,
    claim_trial,
    open_storage,
    release_orphans,
)
from busi_search.search.tracking import Tracker
from busi_search.spec import spec_json

POLL_SECONDS = 0.5


def create_study(context: StudyContext, storage: BaseStorage) -> optuna.Study:
    """Create a study in the storage, or open the one of that name if it is the same.

    Raises:
        InputError: a study of that name exists with another study file or other data.
    """
    identity = {
        "spec": spec_json(context.spec),
        "fingerprint": context.partition.fingerprint,
        "partition": context.partition.digest(),
    }
    with claim_lock(context.home, context.name):
        study = optuna.create_study(
            storage=storage,
            study_name=context.name,
            directions=context.spec.study.directions,
            sampler=make_sampler(context.spec),
            pruner=make_pruner(context.spec.study, len(context.partition.folds)),
            load_if_exists=True,
        )
        known = study.user_attrs.get("identity")
        if known is None:
            _initialise(study, context)
            study.set_user_attr("identity", identity)
        elif known != identity:
            raise InputError(_difference(context, known, identity))
    return study


def _initialise(study: optuna.Study, context: StudyContext) -> None:
    study.set_user_attr("spec_text", context.spec_text)
    study.set_user_attr("origin", context.origin)
    study.set_user_attr("counts", context.counts)
    study.set_user_attr("class_names", list(context.development.class_names))
    study.set_user_attr("simulated", context.development.simulated)
    study.set_user_attr("versions", environment())
    present = {trial.user_attrs.get("recipe") for trial in study.get_trials(deepcopy=False)}
    for parameters, attributes in recipe_trials(context.spec):
        if attributes["recipe"] not in present:
            study.enqueue_trial(parameters, user_attrs=attributes)


def _difference(context: StudyContext, known: dict[str, str], now: dict[str, str]) -> str:
    if known["fingerprint"] != now["fingerprint"]:
        what = f"the images changed since it began ({known['fingerprint']} → {now['fingerprint']})"
    elif known["spec"] != now["spec"]:
        what = f"the study file differs from the one it began with ({_changed_keys(known, now)})"
    else:
        what = "the division into folds and test differs from the one it began with"
    return (
        f"Study '{context.name}' exists and {what}; restore what it began with, "
        "or begin another with --name NEW."
    )


def _changed_keys(known: dict[str, str], now: dict[str, str]) -> str:
    before, after = json.loads(known["spec"]), json.loads(now["spec"])
    changed = [
        f"{section}.{key}"
        for section in ("study", "dataset", "hyperparameters", "space")
        for key in sorted({*before[section], *after[section]})
        if before[section].get(key) != after[section].get(key)
    ]
    return ", ".join(changed) if changed else "recipes"


def environment() -> dict[str, str]:
    """Return versions and hardware that a result may depend on."""
    packages = ("busi-search", "torch", "torchvision", "numpy", "scikit-learn", "optuna", "mlflow")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": str(os.cpu_count()),
        **{package: version(package) for package in packages},
    }


def search_worker(context: StudyContext, target: int, index: int) -> Iterator[None]:
    """Work on trials until the study holds ``target`` finished ones; one step is one trial.

    A CPU trial uses one thread wherever it runs: several workers then share the cores without
    fighting, and the sums come out the same to the last bit.
    """
    import torch

    torch.set_num_threads(1)
    with ExitStack() as stack:
        stack.enter_context(storage_errors(context.home))
        if context.home.has_local_storage:
            stack.enter_context(worker_lock(context.home, context.name, index))
        storage = open_storage(context.home)
        study = optuna.load_study(
            study_name=context.name,
            storage=storage,
            sampler=make_sampler(context.spec),
            pruner=make_pruner(context.spec.study, len(context.partition.folds)),
        )
        objective = Objective(context, study)
        lock = claim_lock(context.home, context.name)
        while not failing(study):
            trial = claim_trial(study, storage, lock, target=target, worker=this_worker())
            if trial is None:
                return
            _run_trial(study, objective, trial)
            yield


def _run_trial(study: optuna.Study, objective: Objective, trial: optuna.Trial) -> None:
    try:
        values = objective(trial)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except STORAGE_FAILURES:
        # Not the trial's fault: it goes back into the queue with what it has.
        raise
    except Exception:
        trial.set_user_attr(ERROR, traceback.format_exc())
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, values)


@dataclass(frozen=True)
class SearchProgress:
    """Where a search stands.

    Attributes:
        target: finished trials asked for.
        before: finished trials when this run began.
        complete, pruned, failed, running: number of trials in each state.
        folds_trained: folds finished by this study so far, of any trial.
        folds_saved: folds that pruning made unnecessary.
        best: the best finished trial, or None.
        elapsed_seconds: since this run began.
        remaining_seconds: estimate, or None while there is nothing to estimate from.
        workers: number of workers at work.
        trials: all trials.
        unsent: finished trials that a tracking store which does not answer is without.
    """

    target: int
    before: int
    complete: int
    pruned: int
    failed: int
    running: int
    folds_trained: int
    folds_saved: int
    best: FrozenTrial | None
    elapsed_seconds: float
    remaining_seconds: float | None
    workers: int
    trials: list[FrozenTrial] = field(repr=False, default_factory=list)
    unsent: int = 0

    @property
    def finished(self) -> int:
        """Number of trials that count towards the target."""
        return self.complete + self.pruned


def count_folds(trials: list[FrozenTrial], context: StudyContext) -> int:
    """Return how many folds of these trials were trained."""
    keys = [fold_key(fold) for fold in range(len(context.partition.folds))]
    return sum(key in trial.user_attrs for trial in trials for key in keys)


def measure_progress(
    study: optuna.Study,
    context: StudyContext,
    target: int,
    *,
    started: float,
    before: int,
    folds_before: int,
    workers: int,
) -> SearchProgress:
    """Count trials and folds, and estimate the time left from this run's pace in folds."""
    trials = study.get_trials(deepcopy=False)
    count = {state: sum(t.state == state for t in trials) for state in TrialState}
    num_folds = len(context.partition.folds)
    trained = count_folds(trials, context)
    pruned = [t for t in trials if t.state == TrialState.PRUNED]
    done_of_pruned = count_folds(pruned, context)
    finished = count[TrialState.COMPLETE] + count[TrialState.PRUNED]
    elapsed = time.monotonic() - started
    remaining = None
    if trained > folds_before:
        ended = num_folds * count[TrialState.COMPLETE] + done_of_pruned
        folds_a_trial = ended / finished if finished else num_folds
        folds_left = max(0.0, target * folds_a_trial - trained)
        remaining = elapsed / (trained - folds_before) * folds_left
    return SearchProgress(
        target=target,
        before=before,
        complete=count[TrialState.COMPLETE],
        pruned=count[TrialState.PRUNED],
        failed=count[TrialState.FAIL],
        running=count[TrialState.RUNNING],
        folds_trained=trained,
        folds_saved=num_folds * len(pruned) - done_of_pruned,
        best=best_trial(trials, context.spec.study.direction),
        elapsed_seconds=elapsed,
        remaining_seconds=remaining,
        workers=workers,
        trials=trials,
    )


def run_search(
    context: StudyContext,
    executor: Executor,
    tracker: Tracker,
    *,
    num_trials: int,
    num_workers: int,
    timeout_seconds: float | None = None,
) -> Generator[SearchProgress]:
    """Search until the study holds ``num_trials`` finished trials; yield where it stands.

    Results are written to the Optuna storage by the workers, fold by fold, and copied to MLflow
    from here, trial by trial. Closing the iterator stops the workers and leaves a study that the
    same call resumes.

    Args:
        context: the study.
        executor: where the workers run.
        tracker: writes to MLflow; closed in the end, open again by its ``start``.
        num_trials: finished trials (COMPLETE + PRUNED) the study shall hold in the end.
        num_workers: workers at once.
        timeout_seconds: stop after this time even if trials are missing.

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
        release_orphans(study, storage)
        forgive_failures(study)
        target = min(num_trials, num_possible_trials(context.spec) or num_trials)
        started = time.monotonic()
        measure = partial(
            _measure,
            tracker,
            study,
            context,
            target,
            started=started,
            before=sum(t.state in FINISHED for t in study.get_trials(deepcopy=False)),
            folds_before=count_folds(study.get_trials(deepcopy=False), context),
        )
        alive = min(num_workers, target - measure(workers=0).finished)
        if alive > 0:
            check_versions(study)
            # Closed in the opposite order: first the workers end, then MLflow is told.
            stack.push(partial(_close_tracker, tracker, study, target))
            stack.callback(_wind_up, executor, study, storage)
            executor.start(partial(search_worker, context, target), alive)
        # Workers import and train while MLflow, slow to start, gets ready.
        tracker.start(study)
        if alive > 0:
            tracker.mark("searching")
        lock = claim_lock(context.home, context.name)
        in_time = True
        while alive > 0 and in_time:
            alive = executor.poll(POLL_SECONDS)
            put_back_lost(study, storage, lock)
            tracker.log_trials(study.get_trials(deepcopy=False))
            yield measure(workers=alive)
            in_time = timeout_seconds is None or time.monotonic() - started <= timeout_seconds
        _wind_up(executor, study, storage)
        tracker.log_trials(study.get_trials(deepcopy=False), last=True)
        progress = measure(workers=0)
        yield progress
        reason = failing(study)
        if reason is not None:
            raise BusiSearchError(
                f"The last trials, {MAX_FAILURES_IN_A_ROW} or more in a row, failed, so the search "
                f"stopped: {reason}"
            )
        if in_time and progress.finished < target:
            raise lost_workers(context.home, study, progress.finished, target)


def _measure(
    tracker: Tracker, study: optuna.Study, context: StudyContext, target: int, **known: Any
) -> SearchProgress:
    progress = measure_progress(study, context, target, **known)
    unsent = 0 if tracker.problem is None else tracker.num_unsent(progress.trials)
    return replace(progress, unsent=unsent)


def _wind_up(executor: Executor, study: optuna.Study, storage: BaseStorage) -> None:
    executor.stop()
    release_orphans(study, storage)


def _close_tracker(
    tracker: Tracker, study: optuna.Study, target: int, error: type[BaseException] | None, *_: Any
) -> None:
    finished = sum(t.state in FINISHED for t in study.get_trials(deepcopy=False))
    state = "searched" if finished >= target else "interrupted"
    tracker.mark(state, hurry=error is not None)
