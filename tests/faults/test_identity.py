"""Studies and homes keep apart what is theirs: other people's files, names that come again."""

import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient

from busi_search.errors import BusiSearchError, GateRefused, InputError
from busi_search.home import Home, create_tracking_store, open_home
from busi_search.models.loading import load_champion
from busi_search.models.registry import list_versions
from busi_search.release import kept_figures
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.release.gate import promote_after_evaluation, refused_by_tags
from busi_search.release.study_gate import gate_of
from busi_search.report.reopened import study_page
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study, search_and_release
from busi_search.search.mlflow.lookup import STUDY_ID, find_experiment, study_id_of
from busi_search.search.prepare import prepare_study
from busi_search.search.reopen import reopen_study
from busi_search.search.status import study_status
from busi_search.search.store.identity import create_study
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.study_record import StudyRecord
from busi_search.upkeep.delete import delete_study, plan_deletion
from busi_search.upkeep.doctor import examine
from busi_search.upkeep.sync import sync_studies
from busi_search.upkeep.ui import leaderboard_url
from tests.conftest import TINY

SMALL = ("epochs=1", "num_folds=3", "image_size_pixels=28", "recipes=[]", "recipe=[]",
         "weights='none'", "space.architecture=['small_cnn']")  # fmt: skip


@pytest.fixture
def searched(tmp_path: Path, tiny_result: StudyResult) -> Home:
    """A copy of a home with one finished study."""
    target = tmp_path / "copy"
    shutil.copytree(tiny_result.context.home.root, target)
    return open_home(target)


@pytest.fixture
def name(tiny_result: StudyResult) -> str:
    return tiny_result.context.name


def client_of(home: Home) -> MlflowClient:
    create_tracking_store(home)
    return MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)


def search_again(home: Home, *, trials: int = 4, **options: object) -> StudyResult:
    given = {"overrides": TINY, "device": "cpu", "inline": True, **options}
    return run_study("quickstart", trials=trials, home=home.root, **given)  # type: ignore[arg-type]


def problems(home: Home, *, fix: bool = False) -> list[str]:
    found = examine(home, fix=fix)
    return [f"{f.about}: {f.text} -> {f.mend}" for f in found if f.state == "problem"]


def tags_of_trials(home: Home, study: str) -> set[str]:
    client, record = client_of(home), StudyRecord(find_study(home, study))
    experiment = find_experiment(client, record, study)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.`busi.kind` = 'trial'")
    return {str(study_id_of(run.data.tags)) for run in runs}


def test_doctor_removes_nothing_that_busi_search_did_not_write(searched: Home) -> None:
    mine = [
        searched.root / ".gitignore",
        searched.root / ".env",
        searched.root / "notes" / "draft.tmp",
        searched.root / "cache" / "draft.123.tmp",
        searched.root / "cache" / "other" / "x.1.tmp",
        searched.root / "cache" / "images" / ".keep",
        searched.root / "studies" / ".hidden",
        searched.root / "known_images" / ".gitkeep",
        searched.root / "thesis.tmp",
    ]
    own = searched.cache / "images" / "abc.123.tmp"
    for path in (*mine, own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, (time.time() - 9999,) * 2)
    findings = examine(searched, fix=True)
    assert all(path.exists() for path in mine)
    assert not own.exists()
    advice = next(f.mend for f in findings if f.about == "caches")
    assert advice is not None
    assert f"{searched.cache} " not in advice


@pytest.mark.slow
def test_a_study_that_was_deleted_and_searched_again_is_another_one(
    searched: Home, name: str
) -> None:
    before = find_study(searched, name)
    old_id = StudyRecord(before).id
    optuna.delete_study(study_name=name, storage=open_storage(searched))
    again = search_again(searched, trials=2, seed=7)
    record = StudyRecord(find_study(searched, name))
    assert old_id is not None
    assert record.id not in (None, old_id)
    assert tags_of_trials(searched, name) == {record.id}
    client = client_of(searched)
    experiments = client.search_experiments(filter_string=f"tags.`{STUDY_ID}` = '{old_id}'")
    assert [e.experiment_id for e in experiments] != [again.experiment_id]
    runs = client.search_runs([experiments[0].experiment_id], "tags.`busi.kind` = 'trial'")
    assert len(runs) == 4
    assert {version.tags[STUDY_ID] for version in list_versions(searched)} == {old_id, record.id}
    assert problems(searched) == []


@pytest.mark.slow
def test_two_people_with_one_mlflow_do_not_touch_each_other(
    searched: Home, tmp_path: Path, name: str
) -> None:
    other = open_home(tmp_path / "other", tracking_uri=searched.tracking_uri)
    first = StudyRecord(find_study(searched, name)).tracked
    context = prepare_study("quickstart", home=other, overrides=TINY, device="cpu", seed=3)
    *_, last = search_and_release(context, num_trials=2, inline=True)
    assert isinstance(last, StudyResult)
    assert first is not None
    assert last.experiment_id != first.experiment_id
    assert len(tags_of_trials(other, name)) == 1
    assert tags_of_trials(other, name).isdisjoint(tags_of_trials(searched, name))
    assert client_of(searched).get_run(first.run_id).data.tags["busi.best_trial"]
    assert sync_studies(searched)[0].num_there == 4


@pytest.mark.slow
def test_a_renamed_experiment_stays_the_studys(searched: Home, name: str) -> None:
    client, tracked = client_of(searched), StudyRecord(find_study(searched, name)).tracked
    assert tracked is not None
    client.rename_experiment(tracked.experiment_id, "renamed o'clock")
    again = search_again(searched, trials=5)
    assert again.experiment_id == tracked.experiment_id
    assert len(client.search_experiments()) == 2  # With MLflow's own default.
    assert tracked.experiment_id in leaderboard_url(searched, "http://x", name)
    assert problems(searched) == []


@pytest.mark.slow
def test_a_copied_home_is_whole_and_leaves_the_original_alone(
    searched: Home, tiny_result: StudyResult, name: str
) -> None:
    original = tiny_result.context.home.root
    first = [f for f in examine(searched) if f.about == "places"]
    assert [f.state for f in first] == ["mended"]
    assert str(original) in first[0].text
    assert problems(searched) == []
    uri = f"models:/busi-classifier/{list_versions(searched)[0].version}"
    assert load_champion(searched, uri).class_names
    run = client_of(searched).get_run(tiny_result.run_id)
    assert str(searched.root) in run.info.artifact_uri
    first_home = client_of(tiny_result.context.home).get_run(tiny_result.run_id)
    assert str(original) in first_home.info.artifact_uri
    moved = searched.root.rename(searched.root.parent / "moved ü")
    there = open_home(moved)
    assert load_champion(there, uri).class_names
    evaluate_sealed_test(there, name)
    assert problems(there) == []


@pytest.mark.slow
def test_delete_removes_one_study_and_keeps_its_ledger(searched: Home, name: str) -> None:
    evaluate_sealed_test(searched, name)
    ledger = searched.study_folder(name) / "ledger.jsonl"
    entries = ledger.read_text()
    plan = plan_deletion(searched, name)
    artifacts = sum(
        p.stat().st_size for p in (searched.root / "artifacts").rglob("*") if p.is_file()
    )
    assert plan.num_bytes >= artifacts > 0
    cached = list((searched.cache / "images").glob("*.npy"))
    done = delete_study(searched, name)
    assert done == plan
    assert cached
    assert not any(path.exists() for path in cached)
    assert ledger.read_text() == entries
    assert not [p for p in (searched.root / "artifacts").rglob("*") if p.is_file()]
    assert optuna.get_all_study_names(open_storage(searched)) == []
    assert list_versions(searched) == []
    with pytest.raises(InputError, match="No study"):
        plan_deletion(searched, name)
    again = search_again(searched, trials=2)
    assert client_of(searched).get_experiment(again.experiment_id).name == name
    assert evaluate_sealed_test(searched, name).openings == 2


def test_delete_keeps_the_model_and_asks_for_the_champion(searched: Home, name: str) -> None:
    client = client_of(searched)
    client.set_registered_model_alias("busi-classifier-phantom", "champion", "1")
    with pytest.raises(InputError, match="--keep-model"):
        plan_deletion(searched, name)
    done = delete_study(searched, name, keep_model=True)
    assert done.kept_models == ("1",)
    assert load_champion(searched).version == "1"
    assert find_or_none(searched, name) is None


def find_or_none(home: Home, name: str) -> optuna.Study | None:
    try:
        return find_study(home, name)
    except InputError:
        return None


@pytest.mark.slow
def test_a_deleted_run_comes_back_before_a_test_is_opened(searched: Home, name: str) -> None:
    client, tracked = client_of(searched), StudyRecord(find_study(searched, name)).tracked
    assert tracked is not None
    client.delete_run(tracked.run_id)
    with pytest.raises(InputError, match="was not opened"):
        evaluate_sealed_test(searched, name)
    assert not (searched.study_folder(name) / "ledger.jsonl").exists()
    assert any("busi-search sync" in text for text in problems(searched))
    assert sync_studies(searched)[0].problem is None
    assert problems(searched) == []
    assert client.get_run(tracked.run_id).data.tags["busi.best_trial"]
    assert evaluate_sealed_test(searched, name).openings == 1


@pytest.mark.slow
def test_a_run_that_is_gone_for_good_is_written_again_with_its_results(
    searched: Home, name: str
) -> None:
    client, tracked = client_of(searched), StudyRecord(find_study(searched, name)).tracked
    assert tracked is not None
    run = client.get_run(tracked.run_id)
    client.set_tag(tracked.run_id, "mlflow.busi.logged", "no")
    client.delete_tag(tracked.run_id, "mlflow.busi.logged")
    client.delete_run(tracked.run_id)
    again = search_again(searched)
    assert again.run_id != tracked.run_id
    new = client.get_run(again.run_id)
    assert new.data.tags["busi.best_trial"] == run.data.tags["busi.best_trial"]
    assert new.data.metrics["cv_auc"] == run.data.metrics["cv_auc"]
    assert "report.html" in {file.path for file in client.list_artifacts(again.run_id)}
    assert problems(searched) == []
    evaluate_sealed_test(searched, name)


def test_a_deleted_experiment_is_said_and_comes_back(searched: Home, name: str) -> None:
    client, tracked = client_of(searched), StudyRecord(find_study(searched, name)).tracked
    assert tracked is not None
    client.delete_experiment(tracked.experiment_id)
    with pytest.raises(InputError, match="busi-search sync"):
        leaderboard_url(searched, "http://x")
    assert any("experiment was deleted" in text for text in problems(searched))
    assert sync_studies(searched)[0].problem is None
    assert tracked.experiment_id in leaderboard_url(searched, "http://x", name)
    assert problems(searched) == []


@pytest.mark.slow
def test_a_model_without_files_is_found_and_registered_anew(searched: Home, name: str) -> None:
    create_tracking_store(searched)
    shutil.rmtree(searched.root / "artifacts" / "models")
    assert any("its files are gone" in text for text in problems(searched))
    result = search_again(searched)
    assert result.release is not None
    assert result.release.version.version == "2"
    assert problems(searched) == []


@pytest.mark.slow
def test_trials_made_elsewhere_are_ignored_and_said(searched: Home, name: str) -> None:
    study = find_study(searched, name)
    imported = optuna.distributions.FloatDistribution(-5.0, 5.0)
    for value in (0.999, 0.1):
        study.add_trial(
            optuna.trial.create_trial(
                params={"odd": 1.0}, distributions={"odd": imported}, value=value
            )
        )
    status = study_status(study)
    assert status.foreign == [4, 5]
    assert status.best != 0.999
    result = search_again(searched, trials=5)
    assert result.foreign == (4, 5)
    assert result.progress.finished == 5
    assert result.release is not None
    assert result.release.trial not in (4, 5)
    assert result.to_json()["foreign_trials"] == [4, 5]
    assert sync_studies(searched)[0].foreign == (4, 5)
    assert any("not made by this search" in f.text for f in examine(searched))
    assert problems(searched) == []
    assert "not made by this search" in study_page(searched, name)


def test_a_gate_that_was_changed_after_the_search_is_used_and_said(
    searched: Home, name: str
) -> None:
    changed = (*TINY, "gate.min_auc=0.9")
    context = prepare_study("quickstart", home=searched, overrides=changed, device="cpu")
    assert any("min_auc 0.5 → 0.9" in text for text in context.warnings)
    search_again(searched, overrides=changed)
    assert gate_of(searched, list_versions(searched)[0]).min_auc == 0.9
    # A study of an earlier version keeps its overrides as comments only.
    study = find_study(searched, name)
    study.set_user_attr("gate", None)
    assert gate_of(searched, list_versions(searched)[0]).min_auc == 0.9


def test_promote_looks_at_tags_before_it_opens_a_test(searched: Home) -> None:
    (version,) = list_versions(searched)
    assert "simulated" in str(refused_by_tags(version))
    tags = {**version.tags, "busi.simulated": "false"}
    assert refused_by_tags(replace(version, tags=tags)) is None
    for missing in ("busi.study", "busi.partition", "busi.weights_sha256"):
        without = {key: value for key, value in tags.items() if key != missing}
        assert missing in str(refused_by_tags(replace(version, tags=without)))
    client = client_of(searched)
    client.create_model_version(
        "busi-classifier-phantom", f"runs:/{version.run_id}/x", version.run_id
    )
    with pytest.raises(GateRefused, match="not registered by busi-search"):
        promote_after_evaluation(searched, version="2")
    assert not (searched.study_folder(version.tags["busi.study"]) / "ledger.jsonl").exists()


def test_figures_that_mlflow_does_not_take_stand_in_the_ledger_and_are_said(
    searched: Home, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no room")

    monkeypatch.setattr(kept_figures, "log_evaluation", refuse)
    with pytest.raises(BusiSearchError, match=r"holds 1 opening, and of version 1: AUC 0\.\d"):
        evaluate_sealed_test(searched, name)


def test_a_study_is_the_same_wherever_its_images_are(
    busi_folder: Path, home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(busi_folder)
    options = {"home": home, "overrides": SMALL, "device": "cpu", "name": "places"}

    def begin(data: str) -> optuna.Study:
        context = prepare_study("busi", data=data, **options)  # type: ignore[arg-type]
        return create_study(context, open_storage(home))

    begin("Dataset_BUSI_with_GT")
    begin("Dataset_BUSI_with_GT/")
    study = begin(str(busi_folder / "Dataset_BUSI_with_GT"))
    monkeypatch.chdir(tmp_path)
    reopen_study(study, home=home)
    elsewhere = tmp_path / "elsewhere"
    busi_folder.rename(elsewhere)
    with pytest.raises(InputError):
        reopen_study(study, home=home)
    reopen_study(study, home=home, data=str(elsewhere / "Dataset_BUSI_with_GT"))
    # The place is remembered.
    reopen_study(study, home=home)
    next((elsewhere / "Dataset_BUSI_with_GT" / "benign").glob("*).png")).unlink()
    with pytest.raises(InputError, match="changed since it began"):
        reopen_study(study, home=home)
