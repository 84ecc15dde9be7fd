"""A study from its name to its registered winner: what ``busi-search run`` does."""

import math
import shlex
import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from busi_search.data.progress import counted_part
from busi_search.errors import BusiSearchError, TrackingAway
from busi_search.files import without_nan
from busi_search.home import Home, open_home
from busi_search.release.intervals import with_intervals
from busi_search.release.learning_curve import measure_learning_curve
from busi_search.release.rebuild import rebuild_ensemble
from busi_search.release.registration import (
    Release,
    checked_version,
    noted_version,
    register_winner,
    release_of,
)
from busi_search.release.selection import Estimate
from busi_search.release.winner import find_winner
from busi_search.report.grad_cam import explain_images
from busi_search.report.notebook import notebook_progress, result_html
from busi_search.report.publishing import publish_winner
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.cost import CostMeter, total_cost
from busi_search.search.driver import join_search, run_search
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.places import RaySettings, choose_places, local_processes
from busi_search.search.prepare import prepare_study
from busi_search.search.progress import SearchProgress
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.foreign import foreign_trials
from busi_search.search.store.open import find_study
from busi_search.search.store.records import is_finished
from busi_search.search.store.study_record import Released, StudyRecord
from busi_search.wording import count_of


@dataclass(frozen=True)
class StudyResult:
    """What a call of :func:`run_study` ends with.

    Attributes:
        context: the study.
        progress: where the search stands.
        release: the registered winner; None if trials are missing or none is complete.
        experiment_id, run_id: of the study in MLflow.
        cost: what it took so far, over all calls.
        foreign: numbers of trials that another program or study made, which are ignored.
    """

    context: StudyContext
    progress: SearchProgress
    release: Release | None
    experiment_id: str
    run_id: str
    cost: dict[str, float]
    foreign: tuple[int, ...] = ()

    def __repr__(self) -> str:
        best = "no winner yet" if self.release is None else f"trial {self.release.trial} is best"
        trials = count_of(self.progress.finished, "finished trial")
        return f"<StudyResult {self.context.name!r}: {trials}; {best}>"

    def _repr_html_(self) -> str:
        """Return the result as a notebook shows it."""
        simulated = self.context.development.simulated
        return result_html(self.context.name, self.progress, self.release, simulated=simulated)

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
            "foreign_trials": list(self.foreign),
            "best": None,
            "corrected": None,
            "calibration": None,
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
                "metrics": {
                    f"cv_{name}": found.to_json() for name, found in release.estimates.items()
                },
            }
            result["calibration"] = {
                "temperature": release.temperature,
                **with_intervals(release.calibration),
            }
            if release.sites:
                result["sites"] = [site.to_json() for site in release.sites]
            result["model"] = {
                "name": release.version.name,
                "version": release.version.version,
                "alias": "candidate" if "candidate" in release.version.aliases else None,
            }
        cleaned: dict[str, Any] = without_nan(result)
        return cleaned


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
        num_trials: total number of trials to finish.
        num_workers: processes at once (default: as many as fit); 0 leaves the work to workers
            that join.
        timeout_seconds: stop searching after this time; the best so far is released.
        inline: run in this process, one trial after the other.
        ray: let Ray place the workers on a cluster.
    """
    started = time.monotonic()
    places = choose_places(context, num_workers=num_workers, inline=inline, ray=ray)
    tracker = Tracker(context)
    progress: SearchProgress | None = None
    search = run_search(
        context,
        places.executor,
        tracker,
        num_trials=num_trials,
        num_workers=places.num_workers,
        timeout_seconds=timeout_seconds,
        worker_context=places.context,
    )
    cost = CostMeter(context, tracker, started)
    with closing(search):
        for progress in search:
            cost.note(progress)
            yield progress
    assert progress is not None, "a search reports at least once"
    cost.search_ended(progress)
    release = _release_unless_away(context, tracker, progress)
    cost.write(progress)
    yield StudyResult(
        context=context,
        progress=progress,
        release=release,
        experiment_id=tracker.experiment_id,
        run_id=tracker.run_id,
        cost=total_cost(context, progress.trials),
        foreign=tuple(foreign_trials(find_study(context.home, context.name))),
    )


def _release_unless_away(
    context: StudyContext, tracker: Tracker, progress: SearchProgress
) -> Release | None:
    """Release the winner, if there is one; where MLflow is away say what is kept, and how to go on.

    Raises:
        TrackingAway: the tracking store does not answer.
    """
    if tracker.problem is not None:
        raise _kept(context, progress, tracker.problem)
    if progress.complete == 0:
        return None
    try:
        with tracking_errors(context.home):
            return release_winner(context, tracker)
    except TrackingAway as error:
        tracker.mark("searched", hurry=True)
        raise _kept(context, progress, str(error)) from error
    except BaseException:
        tracker.mark("searched", hurry=True)
        raise


def release_winner(context: StudyContext, tracker: Tracker) -> Release:
    """Choose the best fully evaluated trial, rebuild its models, register and report them.

    The fold models are trained again from their seeds rather than kept for every trial, and their
    out-of-fold predictions are compared with the stored ones: what is registered is what was
    scored. If the winner is registered already, nothing is changed.

    Args:
        context: a study with at least one complete trial.
        tracker: started.

    Raises:
        BusiSearchError: no trial is complete, or the rebuilt models differ from the scored ones.
    """
    study = find_study(context.home, context.name)
    record = StudyRecord(study)
    with counted_part("correcting the best score for its choice", 0, 1):
        winner = find_winner(context, study.get_trials(deepcopy=False))
    if winner is None:
        raise BusiSearchError(
            f"Study '{context.name}' has no trial that was evaluated on all folds yet; run more "
            "trials."
        )
    num_finished = sum(map(is_finished, winner.trials))
    noted = record.released
    registered = noted_version(winner, noted)
    unchanged = noted is not None and noted.finished == num_finished and tracker.has_results
    if noted is not None and registered is not None and unchanged:
        tracker.mark("complete")
        estimates = {metric: Estimate.from_json(found) for metric, found in noted.estimates.items()}
        return release_of(winner, registered, estimates)
    tracker.mark("releasing")
    registered = registered or checked_version(winner)
    if registered is None:
        ensemble, difference = rebuild_ensemble(winner)
        with counted_part("mapping what the model looks at", 0, 1):
            record.set_explanations(explain_images(winner, ensemble.fold_models))
        with counted_part("measuring the learning curve", 0, 1):
            record.set_learning_curve(measure_learning_curve(winner))
        with counted_part("registering the model", 0, 1):
            registered = register_winner(
                winner,
                ensemble,
                difference,
                experiment_id=tracker.experiment_id,
                run_id=tracker.run_id,
            )
    with counted_part("writing the report", 0, 1):
        publish_winner(winner, registered.version, record, tracker)
    record.set_released(
        Released(
            finished=num_finished,
            trial=winner.number,
            version=registered.version.version,
            model=registered.version.name,
            estimates={metric: found.to_json() for metric, found in winner.estimates.items()},
            rebuilt_difference=registered.rebuilt_difference,
        )
    )
    tracker.mark("complete")
    return release_of(winner, registered, winner.estimates)


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
    yield from join_search(context, local_processes(device), num_workers=num_workers)


def _kept(context: StudyContext, progress: SearchProgress, problem: str) -> TrackingAway:
    """What to type when the search is done and the tracking store is away."""
    unsent = f"; {count_of(progress.unsent, 'trial')} not sent yet" if progress.unsent else ""
    return TrackingAway(
        f"{problem.rstrip('.')}. The search is kept: {progress.finished} of {progress.target} "
        f"trials of study '{context.name}' are finished{unsent}. When the store answers again, run "
        "the same command to send what is missing and register the winner; "
        f"`busi-search sync {shlex.quote(context.name)}` only sends."
    )


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
    progress: bool = True,
) -> StudyResult:
    """Search until ``trials`` trials in total are finished, then register the winner.

    The same call resumes after any interruption. Example::

        import busi_search as bs
        result = bs.run_study("breastmnist", data="breastmnist.npz", trials=20)

    Args:
        study: a bundled study such as ``busi``, or the path of a study file; None chooses by the
            data, and simulates images where there is none.
        trials: total number of trials to finish, those of earlier calls included.
        data: folder, table or .npz archive of the images; replaces ``dataset.path``.
        home: folder for everything that is kept (default: ``./mlruns``).
        name: of the study; default: from the study file and the data.
        seed: of folds and sampling; replaces ``study.seed``.
        weights: starting weights: ``imagenet``, ``phantom``, ``none`` or a file; replaces
            ``hyperparameters.weights``.
        overrides: further settings as ``"key=value"``, such as ``"epochs=5"``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        workers: trials trained at the same time; default: one per core as far as memory allows, one
            on a GPU.
        timeout_seconds: stop searching after this time; the best trial so far is registered.
        inline: train in this process, one trial after the other, instead of in workers.
        ray: have the workers placed on a Ray cluster.
        progress: whether a notebook shows a progress bar; elsewhere there is none.

    Returns:
        Counts of trials, the registered winner with its corrected figures, and what it took.

    Raises:
        InputError: the study file, the data or an argument cannot be used.
        BusiSearchError: trials fail one after the other, or all workers ended.
        TrackingAway: MLflow does not answer; the search is kept.
    """
    started = time.monotonic()
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
    search = search_and_release(
        context,
        num_trials=trials,
        num_workers=workers,
        timeout_seconds=timeout_seconds,
        inline=inline,
        ray=ray,
    )
    last: SearchProgress | StudyResult | None = None
    with notebook_progress(trials, shown=progress) as bar, closing(search):
        for last in search:
            if bar is not None and isinstance(last, SearchProgress):
                bar.update(last)
        if bar is not None:
            bar.ended(time.monotonic() - started)
    assert isinstance(last, StudyResult), "the last item is the result"
    return last
