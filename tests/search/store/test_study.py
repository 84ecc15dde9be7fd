import json
from collections.abc import Iterator

import numpy as np
import optuna
import pytest
from mlflow import MlflowClient
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study, search_and_release
from busi_search.search import objective
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.fold_result import FoldResult
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.objective import Objective
from busi_search.search.prepare import prepare_study
from busi_search.search.store.failures import MAX_FAILURES_IN_A_ROW
from busi_search.search.store.fold_records import stored_folds, stored_indices
from busi_search.search.store.open import find_study
from busi_search.search.store.queue import Claim
from busi_search.search.store.study_parts import Cost
from busi_search.search.store.study_record import StudyRecord
from tests.conftest import TINY


def _interrupt_after(home: Home, num_folds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a study until some folds are stored, then break off as a killed worker would."""
    context = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")
    stored = 0
    original = objective.write_fold

    def write_and_die(storage: BaseStorage, trial_id: int, result: FoldResult) -> None:
        nonlocal stored
        original(storage, trial_id, result)
        stored += 1
        if stored == num_folds:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(objective, "write_fold", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            list(search_and_release(context, num_trials=4, inline=True))


def _scores(study: optuna.Study) -> list[tuple[TrialState, float | None, dict]]:
    return [(t.state, t.value, t.params) for t in study.get_trials()]


@pytest.mark.parametrize("num_folds", [2, 5])
def test_an_interrupted_study_ends_like_an_undisturbed_one(
    num_folds: int, home: Home, tiny_result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    _interrupt_after(home, num_folds, monkeypatch)
    broken = find_study(home, "quickstart-phantom")
    assert not [t for t in broken.get_trials() if t.state == TrialState.RUNNING]
    # Of the first two folds nothing was told yet; with five a trial was.
    spent = StudyRecord(broken).cost.seconds
    assert (spent > 0.0) == (num_folds == 5)
    StudyRecord(broken).set_cost(Cost(seconds=spent + 1_000.0))
    result = run_study(
        "quickstart", trials=4, home=home.root, overrides=TINY, device="cpu", inline=True
    )
    assert result.cost["seconds"] > spent + 1_000.0
    assert 0.0 < result.cost["search_seconds"] < result.cost["seconds"] - 1_000.0
    resumed = find_study(home, "quickstart-phantom")
    undisturbed = find_study(tiny_result.context.home, "quickstart-phantom")
    assert _scores(resumed) == _scores(undisturbed)
    assert result.release is not None
    assert tiny_result.release is not None
    assert result.release.trial == tiny_result.release.trial
    for one, two in zip(resumed.get_trials(), undisturbed.get_trials(), strict=True):
        for a, b in zip(stored_folds(one, 3).values(), stored_folds(two, 3).values(), strict=True):
            np.testing.assert_array_equal(a.log_probabilities, b.log_probabilities)


def test_the_same_call_again_changes_nothing(tiny_result: StudyResult) -> None:
    client = MlflowClient(tiny_result.context.home.tracking_uri)
    before = [(r.info.run_id, r.info.end_time, r.data.metrics, r.data.tags)
              for r in client.search_runs([tiny_result.experiment_id])]  # fmt: skip
    again = run_study(
        "quickstart", trials=4, home=tiny_result.context.home.root, overrides=TINY,
        device="cpu", inline=True,
    )  # fmt: skip
    assert again.to_json() == tiny_result.to_json()
    after = [(r.info.run_id, r.info.end_time, r.data.metrics, r.data.tags)
             for r in client.search_runs([tiny_result.experiment_id])]  # fmt: skip
    assert after == before


def test_every_trial_is_in_mlflow_once_and_told_apart(tiny_result: StudyResult) -> None:
    client = MlflowClient(tiny_result.context.home.tracking_uri)
    runs = client.search_runs([tiny_result.experiment_id])
    kinds = [r.data.tags["busi.kind"] for r in runs]
    assert (kinds.count("study"), kinds.count("trial")) == (1, 4)
    study = find_study(tiny_result.context.home, "quickstart-phantom")
    for run in runs:
        assert run.info.status == "FINISHED"
        tags = run.data.tags
        if tags["busi.kind"] == "study":
            assert run.info.run_id == tiny_result.run_id
            assert run.inputs.dataset_inputs[0].dataset.digest == (
                tiny_result.context.partition.fingerprint
            )
            assert run.data.metrics["best_cv_auc"] == max(
                t.value for t in study.get_trials(states=(TrialState.COMPLETE,))
            )
            continue
        trial = study.get_trials()[int(tags["optuna.number"])]
        assert tags["mlflow.parentRunId"] == tiny_result.run_id
        assert tags["optuna.state"] == trial.state.name
        assert ("cv_auc" in run.data.metrics) == (trial.state == TrialState.COMPLETE)
        if trial.state == TrialState.COMPLETE:
            assert run.data.metrics["cv_auc"] == pytest.approx(trial.value)
            history = client.get_metric_history(run.info.run_id, "train_loss/fold1")
            assert [m.step for m in history] == [1, 2]
            assert [a.path for a in client.list_artifacts(run.info.run_id)] == [
                "calibration.svg", "confusion.svg", "out_of_fold.npz", "roc.svg",
            ]  # fmt: skip
        assert float(run.data.params["learning_rate"]) == trial.params["learning_rate"]
    artifacts = {a.path for a in client.list_artifacts(tiny_result.run_id)}
    assert {"study.toml", "environment.json", "partition.json", "report.html"} <= artifacts


def test_the_out_of_fold_artifact_is_what_was_scored(tiny_result: StudyResult) -> None:
    client = MlflowClient(tiny_result.context.home.tracking_uri)
    best = tiny_result.release.trial
    (run,) = client.search_runs([tiny_result.experiment_id], f"tags.`optuna.number` = '{best}'")
    folder = client.download_artifacts(run.info.run_id, "out_of_fold.npz")
    context = tiny_result.context
    with np.load(folder) as stored:
        assert np.isfinite(stored["log_probabilities"]).all()
        np.testing.assert_array_equal(stored["labels"], context.development.labels)
        for index, fold in enumerate(context.partition.folds):
            assert set(stored["fold_of"][fold.validation]) == {index}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"overrides": (*TINY, "dropout=0.1")}, r"study file differs.*dropout"),
        ({"overrides": TINY, "seed": 3}, r"study\.seed"),
        ({"overrides": (*TINY, "phantom_seed=1")}, "images changed"),
    ],
)
def test_another_study_under_the_same_name_is_refused(
    tiny_result: StudyResult, options: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        run_study(
            "quickstart", trials=4, home=tiny_result.context.home.root, name="quickstart-phantom",
            device="cpu", inline=True, **options,
        )  # fmt: skip
    assert "--name" in str(caught.value)


def test_trials_that_raise_are_failed_and_stop_a_hopeless_search(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Objective, claim: Claim) -> list[float]:
        raise ZeroDivisionError("broken on purpose")

    monkeypatch.setattr(Objective, "__call__", broken)
    context = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")
    tracker = Tracker(context)
    with pytest.raises(BusiSearchError, match="broken on purpose"):
        list(run_search(context, InlineExecutor(), tracker, num_trials=50, num_workers=1))
    trials = find_study(home, context.name).get_trials()
    assert len(trials) == MAX_FAILURES_IN_A_ROW
    client = MlflowClient(home.tracking_uri)
    runs = client.search_runs([tracker.experiment_id], "tags.`busi.kind` = 'trial'")
    assert {r.info.status for r in runs} == {"FAILED"}
    path = client.download_artifacts(runs[0].info.run_id, "traceback.txt")
    with open(path) as stream:
        assert "broken on purpose" in stream.read()


def test_one_failure_does_not_end_the_search(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Objective.__call__

    def sometimes(self: Objective, claim: Claim) -> list[float]:
        if claim.trial.number == 1:
            raise MemoryError("just this once")
        return original(self, claim)

    monkeypatch.setattr(Objective, "__call__", sometimes)
    result = run_study(
        "quickstart", trials=2, home=home.root, overrides=TINY, device="cpu", inline=True
    )
    counts = result.to_json()["trials"]
    assert counts["failed"] == 1
    assert counts["complete"] + counts["pruned"] == 2


def test_a_second_search_of_the_same_study_is_told(home: Home) -> None:
    context = prepare_study("quickstart", home=home, overrides=TINY, device="cpu")

    def search() -> Iterator[object]:
        return run_search(context, InlineExecutor(), Tracker(context), num_trials=2, num_workers=1)

    first = search()
    next(first)
    with pytest.raises(InputError, match="another process"):
        next(search())
    first.close()


@pytest.mark.slow
def test_pruning_saves_folds_and_never_wins(home: Home) -> None:
    """Two bad recipes after a good one: given up before their last fold."""
    context = prepare_study(
        "quickstart", home=home, device="cpu",
        overrides=("phantom_num_images=150", "architecture='small_cnn'", "epochs=8",
                   "startup_trials=0", "batch_size=16"),
    )  # fmt: skip
    good = {"name": "good", "learning_rate": 5e-3, "augmentation_strength": 0.2, "dropout": 0.1}
    bad = {**good, "learning_rate": 1e-4, "epochs": 1}
    recipes = (good, {**bad, "name": "bad"}, {**bad, "name": "worse", "dropout": 0.5})
    spec = context.spec.model_copy(update={"recipe": recipes})
    context = type(context)(**{**vars(context), "spec": spec})
    *_, result = search_and_release(context, num_trials=3, inline=True)
    assert isinstance(result, StudyResult)
    trials = find_study(home, context.name).get_trials()
    assert [t.state.name for t in trials] == ["COMPLETE", "PRUNED", "PRUNED"]
    assert result.release is not None
    assert result.release.trial == 0
    assert sum(4 in stored_indices(t) for t in trials) == 1
    assert "below trial 0" in trials[1].user_attrs["prune_reason"]
    assert json.dumps(result.to_json())
