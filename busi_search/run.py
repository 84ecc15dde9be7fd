"""A study from its name to its registered winner: what ``busi-search run`` does."""

import math
import shlex
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from busi_search.errors import InputError, TrackingAway
from busi_search.home import Home, open_home
from busi_search.release.winner import Release, release_winner
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.cost import CostMeter
from busi_search.search.driver import join_search, run_search
from busi_search.search.executors import Executor, InlineExecutor, ProcessExecutor
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import default_workers, prepare_study
from busi_search.search.progress import SearchProgress
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import find_study
from busi_search.search.store.records import stored_folds, unfinished_fold
from busi_search.search.store.study_record import StudyRecord


@dataclass(frozen=True)
class StudyResult:
    """What a call of :func:`run_study` ends with.

    Attributes:
        context: the study.
        progress: where the search stands.
        release: the registered winner; None if trials are missing or none is complete.
        experiment_id, run_id: of the study in MLflow.
        cost: what it took so far, over all calls.
    """

    context: StudyContext
    progress: SearchProgress
    release: Release | None
    experiment_id: str
    run_id: str
    cost: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``busi-search run --json`` prints it."""
        counts, release = self.context.counts, self.release
        result: dict[str, Any] = {
            "study": self.context.name,
            "experiment_id": self.experiment_id,
            "run_id": self.run_id,
            "dataset": {
                "name": self.context.development.name,
                "fingerprint": self.context.partition.fingerprint,
                **counts,
                "simulated": self.context.development.simulated,
            },
            "trials": {
                "complete": self.progress.complete,
                "pruned": self.progress.pruned,
                "failed": self.progress.failed,
            },
            "best": None,
            "corrected": None,
            "model": None,
            "cost": self.cost,
        }
        if release is not None:
            objective = self.context.spec.study.objective
            estimate = release.estimate
            result["best"] = {
                "trial": release.trial,
                "params": release.params,
                **{k: v if math.isfinite(v) else None for k, v in release.metrics.items()},
            }
            result["corrected"] = {
                objective: estimate.value,
                "ci95": [estimate.low, estimate.high],
                "metrics": {f"cv_{name}": vars(e) for name, e in release.estimates.items()},
            }
            result["model"] = {
                "name": release.version.name,
                "version": release.version.version,
                "alias": "candidate",
            }
        return result


@dataclass(frozen=True)
class RaySettings:
    """Which Ray cluster runs the workers.

    Attributes:
        address: ``local``, ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        gpus_per_worker: GPUs a worker needs, a fraction to pack several on one; 0 runs on CPUs.
    """

    address: str
    gpus_per_worker: float = 0.0


def _on_ray(
    context: StudyContext, settings: RaySettings, num_workers: int | None
) -> tuple[Executor, StudyContext, int]:
    """Return the executor, the study as its workers see it, and how many workers there are."""
    from busi_search.search.ray_executor import RayExecutor

    # Checked before a cluster is asked.
    sent = context.to_send()
    executor = RayExecutor(
        settings.address,
        gpus_per_worker=settings.gpus_per_worker,
        num_cpus=num_workers or default_workers("cpu"),
    )
    if context.home.has_local_storage and executor.num_nodes > 1:
        executor.stop()
        raise InputError(
            f"--ray {settings.address} has several nodes, and the Optuna storage is a file of this "
            "machine: share one with --storage postgresql+psycopg://USER@HOST/DATABASE."
        )
    workers = executor.num_places if num_workers is None else num_workers
    device = "cuda:0" if settings.gpus_per_worker > 0 else "cpu"
    return executor, replace(sent, device=device), workers


def search_and_release(
    context: StudyContext,
    *,
    num_trials: int,
    num_workers: int | None = None,
    timeout_seconds: float | None = None,
    inline: bool = False,
    ray: RaySettings | None = None,
) -> Generator[SearchProgress | StudyResult]:
    """Search, then register the winner; yields progress and, last, the result.

    Args:
        context: the study.
        num_trials: finished trials the study shall hold.
        num_workers: processes at once (default :func:`default_workers`); 0 leaves the work to
            workers that join.
        timeout_seconds: stop searching after this time; the best so far is released.
        inline: run in this process, one trial after the other.
        ray: let Ray place the workers on a cluster.
    """
    started = time.monotonic()
    executor: Executor
    worker_context = context
    if ray is not None:
        executor, worker_context, workers = _on_ray(context, ray, num_workers)
    else:
        executor = InlineExecutor() if inline else _processes(context)
        workers = default_workers(context.device) if num_workers is None else num_workers
    tracker = Tracker(context)
    progress: SearchProgress | None = None
    search = run_search(
        context,
        executor,
        tracker,
        num_trials=num_trials,
        num_workers=1 if inline else workers,
        timeout_seconds=timeout_seconds,
        worker_context=worker_context,
    )
    spent = CostMeter(context, tracker, started)
    with closing(search):
        for progress in search:
            spent.note(progress)
            yield progress
    assert progress is not None, "a search reports at least once"
    spent.search_ended(progress)
    release = None
    if tracker.problem is not None:
        raise _kept(context, progress, tracker.problem)
    if progress.complete > 0:
        try:
            with tracking_errors(context.home):
                release = release_winner(context, tracker)
        except TrackingAway as error:
            tracker.mark("searched", hurry=True)
            raise _kept(context, progress, str(error)) from error
        except BaseException:
            tracker.mark("searched", hurry=True)
            raise
    spent.write(progress)
    yield StudyResult(
        context=context,
        progress=progress,
        release=release,
        experiment_id=tracker.experiment_id,
        run_id=tracker.run_id,
        cost=_total_cost(context, progress),
    )


def help_study(
    name: str, *, home: Home, device: str, num_workers: int, data: str | None = None
) -> Generator[SearchProgress]:
    """Work on a study that is searched elsewhere, until it has its trials.

    Args:
        name: of the study in the storage of ``home``.
        home: where things are kept on this machine, with the address of the shared storage.
        device: PyTorch's name of the device trials run on.
        num_workers: processes at once.
        data: where the images are on this machine, if not where the study file says.

    Raises:
        InputError: no such study, other images or other versions than the search began with.
        BusiSearchError: all workers of this machine died, or trials fail one after the other.
    """
    with storage_errors(home):
        context = reopen_study(find_study(home, name), home=home, device=device, data=data)
    yield from join_search(context, _processes(context), num_workers=num_workers)


def _processes(context: StudyContext) -> ProcessExecutor:
    return ProcessExecutor(forked=context.device == "cpu")


def _kept(context: StudyContext, progress: SearchProgress, problem: str) -> TrackingAway:
    """What to type when the search is done and the tracking store is away."""
    unsent = f"; {progress.unsent} trial(s) are unsent" if progress.unsent else ""
    return TrackingAway(
        f"{problem.rstrip('.')}. The search is kept: {progress.finished} of {progress.target} "
        f"trials of study '{context.name}' are finished{unsent}. When the store answers again, the "
        "same line sends what is missing and registers the winner; "
        f"`busi-search sync {shlex.quote(context.name)}` only sends."
    )


def _total_cost(context: StudyContext, progress: SearchProgress) -> dict[str, float]:
    """Return the seconds of all calls that searched, and count the work."""
    total = StudyRecord(find_study(context.home, context.name)).cost
    num_folds = len(context.partition.folds)
    results = [
        fold for trial in progress.trials for fold in stored_folds(trial, num_folds).values()
    ]
    broken_off = [fold for trial in progress.trials if (fold := unfinished_fold(trial)) is not None]
    return {
        "seconds": total.seconds,
        "fold_trainings": progress.folds_trained,
        "epochs": sum(fold.epochs for fold in broken_off)
        + sum(len(fold.train_loss) for fold in results),
        "image_passes": sum(
            fold.epochs * len(context.partition.folds[fold.fold].train) for fold in broken_off
        )
        + sum(fold.image_passes for fold in results),
        "tracking_seconds": total.tracking_seconds,
        "search_seconds": total.search_seconds,
    }


def run_study(
    study: str | None = None,
    *,
    trials: int = 100,
    data: str | None = None,
    home: str | Path | None = None,
    name: str | None = None,
    seed: int | None = None,
    weights: str | None = None,
    overrides: tuple[str, ...] = (),
    device: str = "auto",
    workers: int | None = None,
    timeout_seconds: float | None = None,
    inline: bool = False,
    ray: RaySettings | None = None,
) -> StudyResult:
    """Search until the study holds ``trials`` finished trials and register the winner.

    The same call resumes after any interruption. Example::

        import busi_search as bs
        result = bs.run_study("breastmnist", data="breastmnist.npz", trials=20)

    Args: as :func:`prepare_study` and :func:`search_and_release`.
    """
    context = prepare_study(
        study,
        data=data,
        home=open_home(home),
        name=name,
        seed=seed,
        weights=weights,
        overrides=overrides,
        device=device,
    )
    *_, last = search_and_release(
        context,
        num_trials=trials,
        num_workers=workers,
        timeout_seconds=timeout_seconds,
        inline=inline,
        ray=ray,
    )
    assert isinstance(last, StudyResult), "the last item is the result"
    return last
