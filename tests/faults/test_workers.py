"""Workers and drivers that die, fail, meet each other, or are not what they were."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import optuna
import pytest
from optuna.trial import TrialState

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home, open_home
from busi_search.search.context import StudyContext
from busi_search.search.driver import run_search
from busi_search.search.executors import Executor, InlineExecutor, ProcessExecutor
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.objective import Objective
from busi_search.search.prepare import prepare_study
from busi_search.search.store import identity
from busi_search.search.store.failures import MAX_MIXED_FAILURES_IN_A_ROW
from busi_search.search.store.locks import claim_lock
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.queue import (
    MAX_LOSSES_AT_ONE_FOLD,
    Claim,
    claim_trial,
    put_back_lost,
)
from busi_search.search.store.records import ERROR
from busi_search.search.store.workers import this_worker
from busi_search.upkeep.doctor import examine
from tests.command import BUSI_SEARCH
from tests.faults.checks import check_copy, check_storage
from tests.faults.torture import TINY as TORTURED
from tests.faults.torture import compare, torture

TINY = ("epochs=1", "phantom_num_images=60", "num_folds=2", "architecture='small_cnn'",
        "image_size_pixels=28", "pruner='none'", "sampler='random'")  # fmt: skip
NAME = "quickstart-phantom"


def plan(home: Home, name: str | None = None) -> StudyContext:
    return prepare_study("quickstart", home=home, name=name, overrides=TINY, device="cpu")


def search(
    context: StudyContext, num_trials: int, executor: Executor | None = None
) -> Iterator[int]:
    steps = run_search(
        context, executor or InlineExecutor(), Tracker(context), num_trials=num_trials,
        num_workers=1,
    )  # fmt: skip
    for progress in steps:
        yield progress.finished


@pytest.mark.slow
def test_killed_at_random_moments_ends_like_an_undisturbed_study(tmp_path: Path) -> None:
    """The short form of ``python -m tests.faults.torture``."""
    home = open_home(tmp_path / "home")
    figures = torture(home, num_trials=4, num_kills=2, workers=1, seed=44, longest_gap=8.0)
    assert figures.kills == {"driver": 1, "worker": 1}
    other = open_home(tmp_path / "undisturbed")
    context = prepare_study("quickstart", home=other, overrides=TORTURED, device="cpu")
    for _ in search(context, figures.trials):
        pass
    assert compare(home, other)
    findings = examine(home)
    assert [f for f in findings if f.state == "problem"] == []


def dead_process() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_trial_goes_back_when_its_worker_died_and_only_then(
    home: Home,
) -> None:
    storage = open_storage(home)
    study = optuna.create_study(storage=storage, study_name="s")
    lock = claim_lock(home, "s")
    node = this_worker().rpartition("/")[0]
    owners = [this_worker(), f"{node}/{dead_process()}", f"elsewhere/{os.getpid()}"]
    for owner in owners:
        assert claim_trial(study, storage, lock, target=3, worker=owner) is not None
    assert put_back_lost(study, storage, lock) == [1]
    states = [trial.state for trial in study.get_trials()]
    assert states == [TrialState.RUNNING, TrialState.WAITING, TrialState.RUNNING]
    again = claim_trial(study, storage, lock, target=3, worker=this_worker())
    assert again is not None
    assert again.trial.number == 1
    # Where nothing is lost, nobody's claim is held up.
    untouched = MagicMock()
    assert put_back_lost(study, storage, untouched) == []
    untouched.__enter__.assert_not_called()


def test_a_trial_that_always_kills_its_worker_is_failed(home: Home) -> None:
    storage = open_storage(home)
    study = optuna.create_study(storage=storage, study_name="s")
    lock = claim_lock(home, "s")
    dead = f"{this_worker().rpartition('/')[0]}/{dead_process()}"
    for attempt in range(MAX_LOSSES_AT_ONE_FOLD):
        claim = claim_trial(study, storage, lock, target=2, worker=dead)
        assert claim is not None
        assert claim.trial.number == 0
        if attempt == 0:
            # A finished fold is progress: losses before it do not count.
            assert put_back_lost(study, storage, lock) == [0]
            claim = claim_trial(study, storage, lock, target=2, worker=dead)
            assert claim is not None
            claim.trial.set_user_attr("fold0", {})
        expected = [0] if attempt < MAX_LOSSES_AT_ONE_FOLD - 1 else []
        assert put_back_lost(study, storage, lock) == expected
    (failed,) = study.get_trials()
    assert failed.state == TrialState.FAIL
    assert "WorkerLost" in failed.user_attrs[ERROR]


class _Suicidal:
    """A worker that claims a trial and dies with it, as one that the system killed."""

    def __init__(self, context: StudyContext) -> None:
        self._context = context

    def __call__(self, index: int) -> Iterator[None]:
        storage = open_storage(self._context.home)
        study = optuna.load_study(study_name=self._context.name, storage=storage)
        lock = claim_lock(self._context.home, self._context.name)
        assert claim_trial(study, storage, lock, target=9, worker=this_worker()) is not None
        os.kill(os.getpid(), 9)
        yield


class _KilledWorkers(ProcessExecutor):
    """Runs workers that die, whatever they are asked to do."""

    def __init__(self, context: StudyContext) -> None:
        super().__init__(max_restarts=1)
        self._suicidal = _Suicidal(context)

    def start(self, worker: object, num_workers: int) -> None:
        super().start(self._suicidal, num_workers)


@pytest.mark.slow
def test_workers_that_all_die_end_the_search_with_a_reason(home: Home) -> None:
    context = plan(home)
    with pytest.raises(BusiSearchError, match=r"killed by SIGKILL.*fewer --workers"):
        list(search(context, 3, _KilledWorkers(context)))
    trials = find_study(home, context.name).get_trials()
    assert [trial.state for trial in trials] == [TrialState.WAITING]
    list(search(context, 3))
    check_storage(home, context.name, 3)
    check_copy(home, context.name, 3)


def test_failures_of_many_kinds_also_stop_the_search_and_the_same_line_tries_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Objective.__call__
    kinds = (ZeroDivisionError, KeyError, RuntimeError)

    def broken(self: Objective, claim: Claim) -> list[float]:
        raise kinds[claim.trial.number % len(kinds)]("broken in several ways")

    context = plan(home)
    monkeypatch.setattr(Objective, "__call__", broken)
    with pytest.raises(BusiSearchError, match="broken in several ways"):
        list(search(context, 50))
    assert len(find_study(home, NAME).get_trials()) == MAX_MIXED_FAILURES_IN_A_ROW
    with pytest.raises(BusiSearchError, match="broken in several ways"):
        list(search(context, 50))
    num_failed = len(find_study(home, NAME).get_trials())
    assert num_failed == 2 * MAX_MIXED_FAILURES_IN_A_ROW
    monkeypatch.setattr(Objective, "__call__", original)
    *_, finished = search(context, 2)
    assert finished == 2
    states = [trial.state for trial in find_study(home, NAME).get_trials()]
    assert states.count(TrialState.FAIL) == num_failed


def test_other_code_is_refused_unless_nothing_is_left_to_do(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = plan(home)
    list(search(context, 2))
    versions = identity.decisive_versions()
    monkeypatch.setattr(identity, "decisive_versions", lambda: versions | {"torch": "9.9"})
    list(search(context, 2))
    with pytest.raises(InputError, match=r"torch .* → 9\.9.*--name NEW"):
        list(search(context, 3))
    assert len(find_study(home, context.name).get_trials()) == 2
    assert any("torch" in f.text and f.state == "note" for f in examine(home))
    (running,) = _study_runs(home, context.name)
    assert running == "FINISHED"


def _study_runs(home: Home, name: str) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient(home.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`busi.kind` = 'study'")
    return [run.info.status for run in runs]


def test_leftovers_of_a_killed_driver_are_found_and_mended(home: Home) -> None:
    context = plan(home)
    list(search(context, 1))
    study, storage = find_study(home, context.name), open_storage(home)
    dead = f"{this_worker().rpartition('/')[0]}/{dead_process()}"
    lost = claim_trial(study, storage, claim_lock(home, context.name), target=9, worker=dead)
    assert lost is not None
    from mlflow import MlflowClient

    client = MlflowClient(home.tracking_uri)
    experiment = client.get_experiment_by_name(context.name)
    assert experiment is not None
    (study_run,) = client.search_runs([experiment.experiment_id], "tags.`busi.kind` = 'study'")
    client.update_run(study_run.info.run_id, status="RUNNING")

    problems = [f for f in examine(home) if f.state == "problem"]
    assert [f.text.split(";")[0] for f in problems] == [
        "1 trial running without a worker",
        "0 finished trials not in MLflow, 1 run left running there",
    ]
    assert all("busi-search" in str(f.mend) for f in problems)
    assert [f.state for f in examine(home, fix=True)].count("mended") == 2
    assert [f for f in examine(home) if f.state == "problem"] == []
    list(search(context, 2))
    check_storage(home, context.name, 2)
    check_copy(home, context.name, 2)


def launch(home: Path, name: str, num_trials: int) -> subprocess.Popen[str]:
    settings = [word for override in TINY for word in ("--set", override)]
    words = ["--home", str(home), "run", "--name", name, "--trials", str(num_trials), "--json"]
    return subprocess.Popen(
        [*BUSI_SEARCH, *words, "--workers", "1", "--quiet", "--device", "cpu", *settings],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.slow
def test_a_fresh_home_takes_two_studies_and_three_drivers_at_once(tmp_path: Path) -> None:
    """Two studies work; the third driver wants a study that is taken, and is told."""
    root = tmp_path / "home"
    drivers = [launch(root, name, 2) for name in ("one", "two", "two")]
    answers = [driver.communicate(timeout=600) for driver in drivers]
    codes = [driver.returncode for driver in drivers]
    assert codes[0] == 0, answers[0][1]
    # Started together, either the second or the third may be first; or one comes after the other.
    assert sorted(codes[1:]) in ([0, 0], [0, 2]), answers
    for (_, stderr), code in zip(answers, codes, strict=True):
        assert "Traceback" not in stderr
        assert code == 0 or "another process" in stderr
    home = open_home(root)
    versions = {
        json.loads(out)["model"]["version"]
        for (out, _), code in zip(answers, codes, strict=True)
        if code == 0
    }
    assert versions == {"1", "2"}
    for name in ("one", "two"):
        check_storage(home, name, 2)
        check_copy(home, name, 2)


def test_doctor_leaves_a_study_alone_that_is_being_searched(home: Home) -> None:
    context = plan(home)
    steps = search(context, 3)
    next(steps)
    found = {f.about: f.text for f in examine(home, fix=True)}
    assert found[f"study {context.name}"] == "is being searched right now"
    *_, finished = steps
    assert finished == 3
    check_copy(home, context.name, 3)
