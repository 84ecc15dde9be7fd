"""What a worker does: claim a trial, work on it, tell the storage, until there is nothing left."""

import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import TrialState

from busi_search.search.context import StudyContext
from busi_search.search.objective import Objective, TrialTaken
from busi_search.search.prepare import device_of_worker
from busi_search.search.pruning.optuna_pruners import make_pruner
from busi_search.search.samplers import make_sampler
from busi_search.search.store.errors import STORAGE_FAILURES, storage_errors
from busi_search.search.store.failures import failing
from busi_search.search.store.foreign import own_trials
from busi_search.search.store.heartbeat import heartbeat
from busi_search.search.store.locks import claim_lock, worker_lock
from busi_search.search.store.notes import write_note
from busi_search.search.store.open import open_storage
from busi_search.search.store.queue import Claim, claim_trial, put_back_lost
from busi_search.search.store.records import num_finished, write_error
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.store.workers import this_worker

# Between looks at trials of other workers, which may be lost and come back.
WAIT_SECONDS = 1.0


def search_worker(context: StudyContext, joined: bool, index: int) -> Iterator[None]:
    """Work on trials until the study holds as many finished ones as its driver wants.

    One step is one trial, or a moment of waiting for the last trials of other workers.

    Args:
        context: the study.
        joined: whether this worker came of its own accord, not started by a driver of this home.
        index: of the worker among those started with it.
    """
    from busi_search.training.cpu_setup import train_on_one_core
    from busi_search.training.determinism import train_deterministically

    train_on_one_core()
    context = replace(context, device=device_of_worker(context.device, index))
    train_deterministically(context.device, wanted=context.spec.study.deterministic)
    with ExitStack() as stack:
        stack.enter_context(storage_errors(context.home))
        if context.home.has_local_storage and not joined:
            stack.enter_context(worker_lock(context.home, context.name, index))
        storage = open_storage(context.home, patient=True)
        study = optuna.load_study(
            study_name=context.name,
            storage=storage,
            sampler=make_sampler(context.spec, storage),
            pruner=make_pruner(context.spec.study, len(context.partition.folds)),
        )
        record = StudyRecord(study)
        objective = Objective(context, study)
        lock = claim_lock(context.home, context.name)
        while True:
            target = record.target or 0
            claim = claim_trial(study, storage, lock, target=target, worker=this_worker())
            if claim is not None:
                _run_trial(study, objective, claim)
            elif failing(study) or num_finished(own_trials(study)) >= target:
                return
            else:
                time.sleep(WAIT_SECONDS)
                put_back_lost(study, storage, lock)
            yield


def _run_trial(study: optuna.Study, objective: Objective, claim: Claim) -> None:
    try:
        with heartbeat(claim.storage, claim.trial_id):
            _work_and_tell(study, objective, claim)
    except TrialTaken:
        return
    except (UpdateFinishedTrialError, ValueError):
        # Told twice by a call that was repeated, or taken over while this machine was not heard.
        if claim.is_mine():
            raise


def _work_and_tell(study: optuna.Study, objective: Objective, claim: Claim) -> None:
    trial = claim.trial
    try:
        values = objective(claim)
    except optuna.TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except (TrialTaken, UpdateFinishedTrialError, *STORAGE_FAILURES):
        # Not the trial's fault: it goes back into the queue with what it has.
        raise
    except Exception:
        error = traceback.format_exc()
        write_error(trial, error)
        text = f"Failed.\n\n```\n{error}\n```"
        write_note(claim.storage, study.study_name, claim.trial_id, text)
        study.tell(trial, state=TrialState.FAIL)
    else:
        study.tell(trial, values)
