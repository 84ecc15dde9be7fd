"""A study's whole search, repeated, with each winner checked on images that it never saw.

Every repeat is searched, corrected and chosen as the study itself, on part of its development
images; what the winner gives on the others is what the corrected score had promised. Records of
repeats lie in a storage of their own below the study's folder: the study's own records, MLflow and
the sealed test have no part in it.
"""

import hashlib
import json
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from functools import partial

from busi_search.errors import BusiSearchError, InputError
from busi_search.files import disk_errors, write_atomically
from busi_search.home import Home
from busi_search.release.audit_judging import judge_repeat
from busi_search.release.audit_report import AuditReport, Repeat
from busi_search.release.audit_splits import OuterSplit, outer_split, parts_of_a_round
from busi_search.search.context import StudyContext
from busi_search.search.executors import Executor, InlineExecutor
from busi_search.search.places import local_processes
from busi_search.search.reopen import reopen_study
from busi_search.search.samplers import num_possible_trials
from busi_search.search.store.errors import check_storage, storage_errors
from busi_search.search.store.failures import failing
from busi_search.search.store.foreign import own_trials
from busi_search.search.store.identity import create_study
from busi_search.search.store.locks import claim_lock, only_driver
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.queue import put_back_lost
from busi_search.search.store.records import num_finished
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.worker import search_worker
from busi_search.spec import spec_json
from busi_search.training.cpu_setup import train_on_one_core

AUDIT = "audit"
_RESULT = "repeat.json"
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class AuditPlan:
    """What an audit repeats.

    Attributes:
        context: the study.
        num_repeats: how many.
        num_trials: finished trials of each.
    """

    context: StudyContext
    num_repeats: int
    num_trials: int

    @property
    def name(self) -> str:
        """Name of the audit: changes with the study, its images and the number of trials."""
        context = self.context
        known = (
            spec_json(context.spec),
            context.partition.fingerprint,
            context.partition.digest(),
            context.lesions_digest or "",
            str(self.num_trials),
        )
        return f"{context.name}/{AUDIT}/{hashlib.sha256('|'.join(known).encode()).hexdigest()[:12]}"

    @property
    def home(self) -> Home:
        """The study's home with a storage of the audit's own."""
        folder = self.context.home.audit_folder(self.context.name)
        return replace(self.context.home, storage_url=f"sqlite:///{folder / 'optuna.db'}")

    def repeat_name(self, number: int) -> str:
        """Name of one repeated search."""
        return f"{self.name}/{number:03d}"

    def stored(self, number: int) -> Repeat | None:
        """Return a repeat that is done; None if it is not, or if its file is not whole."""
        path = self.context.home.study_folder(self.repeat_name(number)) / _RESULT
        with suppress(OSError, ValueError, KeyError, TypeError):
            return Repeat.from_json(json.loads(path.read_bytes()))
        return None

    def store(self, repeat: Repeat) -> None:
        """Keep a repeat that is done."""
        folder = self.context.home.study_folder(self.repeat_name(repeat.number))
        with disk_errors(folder):
            write_atomically(folder / _RESULT, json.dumps(repeat.to_json()).encode())


def plan_audit(
    home: Home,
    name: str,
    *,
    num_repeats: int,
    num_trials: int | None = None,
    data: str | None = None,
    device: str = "cpu",
) -> AuditPlan:
    """Open a study that shall be audited, and check that it can be divided.

    Args:
        home: where the study is.
        name: of the study.
        num_repeats: how often its search is repeated.
        num_trials: finished trials of each repeat (default: as many as the study has).
        data: where the study's images are, if they were moved.
        device: PyTorch's name of the device.

    Raises:
        InputError: no such study, no finished trial, its images are gone or changed, or they are
            too few for outer parts.
    """
    with storage_errors(home):
        study = find_study(home, name)
        context = reopen_study(study, home=home, device=device, data=data)
        trials = num_trials or num_finished(own_trials(study))
    if trials == 0:
        raise InputError(f"Study '{name}' has no finished trial; run it first, or give --trials.")
    trials = min(trials, num_possible_trials(context.spec) or trials)
    for number in range(min(num_repeats, parts_of_a_round(context))):
        outer_split(context, number)
    return AuditPlan(context, num_repeats, trials)


def run_audit(
    plan: AuditPlan, *, num_workers: int = 1, inline: bool = False
) -> Generator[tuple[Repeat, ...], None, AuditReport]:
    """Repeat the search; yield all repeats that are done, whenever there may be more of them.

    The same call goes on where an interrupted one stopped, trial by trial.

    Args:
        plan: what to repeat.
        num_workers: repeats at once.
        inline: in this process.

    Returns:
        The report of all repeats.

    Raises:
        InputError: the study is being audited by another process.
        BusiSearchError: trials fail one after the other, or the workers died.
    """
    plan.context.home.audit_folder(plan.context.name).mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(only_driver(plan.home, f"{plan.context.name}/{AUDIT}"))
        stack.enter_context(storage_errors(plan.home))
        check_storage(plan.home)
        open_storage(plan.home)  # its tables are there before several workers want them
        missing = sum(plan.stored(number) is None for number in range(plan.num_repeats))
        executor: Executor = InlineExecutor() if inline else local_processes(plan.context.device)
        stack.callback(executor.stop)
        alive = min(num_workers, missing)
        if missing:
            executor.start(partial(audit_worker, plan, alive), alive)
        while alive > 0:
            yield _done(plan)
            alive = executor.poll(_POLL_SECONDS)
    done = _done(plan)
    yield done
    if len(done) < plan.num_repeats:
        latest = "; ".join(dict.fromkeys(executor.problems[-3:]))
        raise BusiSearchError(
            f"The audit stopped with {len(done)} of {plan.num_repeats} repeats "
            f"({latest or 'its workers ended'}); run the same command again to resume."
        )
    section = plan.context.spec.study
    return AuditReport(
        study=plan.context.name,
        objective=section.objective,
        num_trials=plan.num_trials,
        parts=parts_of_a_round(plan.context),
        scope=plan.context.partition.grouping.scope,
        repeats=done,
    )


def _done(plan: AuditPlan) -> tuple[Repeat, ...]:
    stored = (plan.stored(number) for number in range(plan.num_repeats))
    return tuple(repeat for repeat in stored if repeat is not None)


def audit_worker(plan: AuditPlan, num_workers: int, index: int) -> Iterator[None]:
    """Work on every repeat that is this worker's, trial by trial.

    Args:
        plan: what to repeat.
        num_workers: how many share the repeats.
        index: of this worker.
    """
    train_on_one_core()
    for number in range(index, plan.num_repeats, num_workers):
        if plan.stored(number) is None:
            split = outer_split(plan.context, number)
            context = repeat_context(plan, split)
            yield from _search(context, plan.num_trials, index)
            trials = own_trials(find_study(context.home, context.name))
            plan.store(judge_repeat(context, split, trials))
            yield


def repeat_context(plan: AuditPlan, split: OuterSplit) -> StudyContext:
    """Return a repeat as a study: all development images, but folds of the inner ones alone.

    So frozen features, which are kept by their pixels, are those of the study itself.
    """
    context = plan.context
    section = context.spec.study.model_copy(update={"seed": split.seed})
    return replace(
        context,
        name=plan.repeat_name(split.number),
        spec=context.spec.model_copy(update={"study": section}),
        home=plan.home,
        partition=replace(context.partition, folds=split.folds),
    )


def _search(context: StudyContext, num_trials: int, index: int) -> Iterator[None]:
    """Search a repeat to its end, or go on with one that was interrupted."""
    storage = open_storage(context.home)
    study = create_study(context, storage)
    lock = claim_lock(context.home, context.name)
    put_back_lost(study, storage, lock, blame=False, own=True)
    StudyRecord(study).set_target(num_trials)
    yield from search_worker(context, True, index)
    if (reason := failing(study)) is not None:
        raise BusiSearchError(f"Trials of a repeat fail one after the other: {reason}")
