"""The tracking server goes away in the middle of a search, in every way a server can."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from busi_search.errors import BusiSearchError, TrackingAway
from busi_search.home import open_home
from busi_search.models import export, registry
from busi_search.report.study_result import StudyResult
from busi_search.run import search_and_release
from busi_search.search.context import StudyContext
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.mlflow import retry as outages
from busi_search.search.mlflow.lookup import STUDY_ID
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.store.open import find_study
from busi_search.upkeep.doctor import examine
from busi_search.upkeep.sync import sync_studies
from tests.faults.checks import check_copy
from tests.faults.tracking_server import TrackingServer

TINY = ("epochs=1", "phantom_num_images=60", "num_folds=2", "architecture='small_cnn'",
        "image_size_pixels=28", "pruner='none'", "sampler='random'")  # fmt: skip
NAME = "quickstart-phantom"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    with pytest.MonkeyPatch.context():
        made = TrackingServer(tmp_path_factory.mktemp("server"))
        # Its first answer takes seconds: the tables are made.
        MlflowClient(made.uri).search_experiments()
        yield made
        made.stop()


@pytest.fixture
def context(
    server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StudyContext]:
    monkeypatch.setattr(outages, "FIRST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(outages, "LONGEST_PAUSE_SECONDS", 0.0)
    home = open_home(tmp_path / "home", tracking_uri=server.uri)
    # The server keeps its runs from test to test; a study's name is its own.
    yield prepare_study(
        "quickstart", home=home, name=f"{NAME}-{tmp_path.name}", overrides=TINY, device="cpu"
    )
    server.mode, server.hang_seconds = "ok", 6.0
    server.stop()
    server.start()


def search(context: StudyContext, tracker: Tracker, num_trials: int) -> Iterator[int]:
    """Yield the number of finished trials after each."""
    steps = run_search(context, InlineExecutor(), tracker, num_trials=num_trials, num_workers=1)
    for progress in steps:
        yield progress.finished


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["stopped", "error", "lost", "hang"])
def test_training_goes_on_and_every_trial_arrives_once(
    fault: str,
    server: TrackingServer,
    context: StudyContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Longer than a driver that waited for an answer may be allowed to take.
    server.hang_seconds = 120
    # A busy machine's server may take long; only one that hangs is given up soon.
    tracker = Tracker(context, call_seconds=60)
    longest = 0.0
    before = time.monotonic()
    for finished in search(context, tracker, 6):
        longest = max(longest, time.monotonic() - before)
        if finished == 2:
            monkeypatch.setattr(tracker, "_call_seconds", 5)
            if fault == "stopped":
                server.stop()
            else:
                server.mode = fault
        if finished == 4:
            assert tracker.problem is not None
            monkeypatch.setattr(tracker, "_call_seconds", 60)
            server.mode = "ok"
            if fault == "stopped":
                server.start()
        before = time.monotonic()
    assert tracker.problem is None
    # How long a step takes says something only where it could wait for an answer.
    assert fault != "hang" or longest < 100
    check_copy(context.home, context.name, 6)


def test_gone_for_good_keeps_the_search_and_says_what_to_type(
    server: TrackingServer, context: StudyContext
) -> None:
    def search_and_lose_the_server() -> None:
        for step in search_and_release(context, num_trials=3, inline=True):
            if not isinstance(step, StudyResult) and step.finished == 1:
                server.stop()

    with pytest.raises(TrackingAway) as caught:
        search_and_lose_the_server()
    sentence = str(caught.value)
    assert "3 of 3 trials" in sentence
    assert f"busi-search sync {context.name}" in sentence
    assert len(sentence.splitlines()) == 1
    assert [t.state.name for t in find_study(context.home, context.name).get_trials()] == (
        ["COMPLETE"] * 3
    )
    unsent = sync_studies(context.home, [context.name])[0]
    assert unsent.problem is not None
    assert {f.about: f.state for f in examine(context.home)}["tracking"] == "problem"

    server.start()
    (problem,) = [f for f in examine(context.home) if f.state == "problem"]
    assert problem.mend == f"busi-search sync {context.name}"
    sent = sync_studies(context.home)[0]
    assert (sent.num_sent, sent.problem) == (3 - sent.num_there, None)
    assert sent.num_sent >= 2
    check_copy(context.home, context.name, 3)
    again = sync_studies(context.home, [context.name])[0]
    assert (again.num_sent, again.num_there) == (0, 3)
    *_, result = search_and_release(context, num_trials=3, inline=True)
    assert isinstance(result, StudyResult)
    assert result.to_json()["model"]["alias"] == "candidate"
    check_copy(context.home, context.name, 3)
    assert all(f.state != "problem" for f in examine(context.home))


def test_a_server_that_never_answered_is_refused_at_once(
    server: TrackingServer, context: StudyContext
) -> None:
    server.stop()
    started = time.monotonic()
    with pytest.raises(BusiSearchError, match=r"127\.0\.0\.1"):
        list(search_and_release(context, num_trials=2, inline=True))
    assert time.monotonic() - started < 60


def test_a_resumed_search_does_not_wait_for_the_server(
    server: TrackingServer, context: StudyContext
) -> None:
    for finished in search(context, Tracker(context, call_seconds=60), 2):
        assert finished <= 2
    server.stop()
    tracker = Tracker(context, call_seconds=60)
    assert max(search(context, tracker, 4)) == 4
    assert tracker.problem is not None
    assert tracker.run_id
    server.start()
    *_, last = search(context, Tracker(context, call_seconds=60), 4)
    assert last == 4
    check_copy(context.home, context.name, 4)


def test_an_interrupt_does_not_wait_for_a_server_that_hangs(
    server: TrackingServer, context: StudyContext
) -> None:
    server.hang_seconds = 120
    tracker = Tracker(context, call_seconds=60)
    steps = run_search(context, InlineExecutor(), tracker, num_trials=5, num_workers=1)
    next(steps)
    server.mode = "hang"
    started = time.monotonic()
    steps.close()
    assert time.monotonic() - started < 100


def test_a_second_study_run_made_by_a_lost_answer_is_removed(
    server: TrackingServer, context: StudyContext
) -> None:
    list(search(context, Tracker(context, call_seconds=60), 1))
    client = MlflowClient(context.home.tracking_uri)
    experiment = client.get_experiment_by_name(context.name)
    assert experiment is not None
    own = {STUDY_ID: experiment.tags[STUDY_ID]}
    client.create_run(experiment.experiment_id, tags={"busi.kind": "study", **own})
    trial = {"busi.kind": "trial", "optuna.number": "0"}
    client.create_run(experiment.experiment_id, tags={**trial, **own})
    list(search(context, Tracker(context, call_seconds=60), 2))
    check_copy(context.home, context.name, 2)


def test_a_trial_that_raised_shows_its_traceback(
    context: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    from busi_search.search.objective import Objective
    from busi_search.search.store.queue import Claim

    original = Objective.__call__

    def raise_once(self: Objective, claim: Claim) -> list[float]:
        if claim.trial.number == 0:
            raise RuntimeError("CUDA out of memory, as it were")
        return original(self, claim)

    monkeypatch.setattr(Objective, "__call__", raise_once)
    list(search(context, Tracker(context, call_seconds=60), 1))
    client = MlflowClient(context.home.tracking_uri)
    experiment = client.get_experiment_by_name(context.name)
    assert experiment is not None
    (failed,) = client.search_runs([experiment.experiment_id], "attributes.status = 'FAILED'")
    path = client.download_artifacts(failed.info.run_id, "traceback.txt")
    assert "CUDA out of memory" in Path(path).read_text()
    assert failed.data.tags["optuna.state"] == "FAIL"


@pytest.mark.slow
def test_a_version_whose_answer_is_lost_is_made_once(
    server: TrackingServer, context: StudyContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "REGISTRY_CALL_SECONDS", 30)
    path = "/api/2.0/mlflow/model-versions/create"
    before = server.num_calls[path]
    server.lose_once = path
    *_, result = search_and_release(context, num_trials=1, inline=True)
    assert isinstance(result, StudyResult)
    assert result.release is not None
    assert server.num_calls[path] == before + 1
    client = registry.open_registry(context.home)
    mine = [
        version
        for version in client.search_model_versions("name='busi-classifier-phantom'")
        if version.tags["busi.study"] == context.name
    ]
    assert [str(version.version) for version in mine] == [result.release.version.version]
