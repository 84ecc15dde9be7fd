import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from busi_search.errors import BusiSearchError, GateRefused, InputError, Interrupted
from busi_search.home import Home, open_home
from busi_search.interrupts import interrupt
from busi_search.models import evaluations, registry
from busi_search.models.asked_files import find_images
from busi_search.models.loading import load_champion
from busi_search.release import gate
from busi_search.release.rebuild import rebuild_ensemble
from busi_search.release.winner import find_winner
from busi_search.report.study_result import StudyResult
from busi_search.report.study_view import load_study
from busi_search.run import run_study
from busi_search.search.store.open import find_study
from busi_search.upkeep.ui import leaderboard_url
from tests.conftest import TINY

# Test figures of a good model, as they are kept with its version.
GOOD = {
    **dict.fromkeys(evaluations.TEST_TAGS, 0.9),
    "auc_low": 0.84,
    "auc_high": 0.95,
    "num_images": 120,
    "num_positive": 33,
}


@pytest.fixture
def own_home(tiny_result: StudyResult, tmp_path: Path) -> Home:
    """A copy of the registry's database that a test may change."""
    source = tiny_result.context.home.root
    shutil.copy(source / "mlflow.db", tmp_path / "mlflow.db")
    return open_home(tmp_path)


def test_the_winner_is_the_scored_model_and_survives_export(tiny_result: StudyResult) -> None:
    context = tiny_result.context
    release = tiny_result.release
    assert release is not None
    assert release.rebuilt_difference == 0.0
    winner = find_winner(context, find_study(context.home, context.name).get_trials())
    assert winner is not None
    model, difference = rebuild_ensemble(winner)
    assert difference == 0.0
    classifier = load_champion(context.home, "models:/busi-classifier@candidate")
    images = np.array(context.images(28)[:5])
    with torch.inference_mode():
        expected = model(torch.from_numpy(images).unsqueeze(1).float()).numpy()
    for count in (1, 5):
        given = classifier.predict_pixels(images[:count])
        np.testing.assert_allclose(given, expected[:count], atol=1e-6)
        np.testing.assert_allclose(given.sum(1), 1, atol=1e-5)
    assert classifier.class_names == ("benign", "malignant", "normal")
    assert classifier.simulated


def test_files_are_answered_as_arrays_are(tiny_result: StudyResult, tmp_path: Path) -> None:
    context = tiny_result.context
    classifier = load_champion(context.home, "models:/busi-classifier/1")
    images = np.array(context.images(28)[:3])
    for index, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{index}.png")
        Image.fromarray(image).save(tmp_path / f"{index}_mask.png")
    found = find_images([tmp_path])
    assert [path.name for path in found] == ["0.png", "1.png", "2.png"]
    predictions = classifier.predict(found)
    expected = classifier.predict_pixels(images)
    for prediction, row in zip(predictions, expected, strict=True):
        assert list(prediction.probabilities.values()) == pytest.approx(row.tolist())
        assert prediction.most_likely == classifier.class_names[row.argmax()]
    (tmp_path / "bad.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"bad\.png"):
        classifier.predict([tmp_path / "bad.png"])


def test_phantom_models_need_force_and_a_reason(own_home: Home) -> None:
    with pytest.raises(GateRefused, match="phantom"):
        gate.promote(own_home)
    assert registry.current_champion(own_home) is None
    with pytest.raises(InputError, match="--reason"):
        gate.promote(own_home, force=True)
    decision = gate.promote(own_home, force=True, reason="a test")
    assert decision.decision == "forced"
    champion = registry.current_champion(own_home)
    assert champion is not None
    assert champion.tags["busi.promotion_reason"] == "a test"
    assert len(champion.tags["busi.weights_sha256"]) == 64
    assert gate.promote(own_home).reasons == ("it is the champion already",)


def _add_two_that_may_pass(own_home: Home) -> None:
    """Versions 2 and 3, evaluated and compared with version 2."""
    client = MlflowClient(own_home.tracking_uri, registry_uri=own_home.tracking_uri)
    mlflow.set_tracking_uri(own_home.tracking_uri)  # where MLflow looks for the source
    first = registry.find_version(own_home, "1")
    source = client.get_model_version(registry.PHANTOM_MODEL, "1").source
    figures = {evaluations.TEST_FIGURES: json.dumps(GOOD)}
    same = {"champion": "2", "comparable": True, "auc_difference": 0.0, "ci95": [-0.01, 0.01],
            "probability_worse": 0.5, "standard_error": 0.005}  # fmt: skip
    real = {**first.tags, **figures, "busi.simulated": "false"}
    real["busi.against_champion"] = json.dumps(same)
    for _ in range(2):
        client.create_model_version(registry.PHANTOM_MODEL, source, run_id=first.run_id, tags=real)


def test_the_way_back(own_home: Home) -> None:
    _add_two_that_may_pass(own_home)
    with pytest.raises(InputError, match="no previous"):
        gate.rollback(own_home)
    assert gate.promote(own_home, version="2").decision == "promoted"
    decision = gate.promote(own_home, version="3")
    assert decision.previous_champion is not None
    assert decision.previous_champion.version == "2"
    back = gate.rollback(own_home)
    assert back.champion.version == "2"
    assert registry.current_champion(own_home) == registry.find_version(own_home, "champion")
    with pytest.raises(InputError, match="no previous"):
        gate.rollback(own_home)


def test_an_interrupted_promotion_moves_both_aliases(
    own_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _add_two_that_may_pass(own_home)
    gate.promote(own_home, version="2")
    client = registry.open_registry(own_home)
    move = client.set_registered_model_alias

    def move_and_interrupt(name: str, alias: str, version: str) -> None:
        move(name, alias, version)
        if alias == registry.PREVIOUS_CHAMPION:
            interrupt(Interrupted("stopped"))

    monkeypatch.setattr(client, "set_registered_model_alias", move_and_interrupt)
    monkeypatch.setattr(gate, "open_registry", lambda _home: client)
    with pytest.raises(Interrupted, match="stopped"):
        gate.promote(own_home, version="3")
    champion = registry.current_champion(own_home)
    assert champion is not None
    assert champion.version == "3"
    assert gate.rollback(own_home).champion.version == "2"


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(own_home: Home) -> None:
    """Both were compared with the champion of before; the second's comparison is out of date."""
    client = MlflowClient(own_home.tracking_uri, registry_uri=own_home.tracking_uri)
    mlflow.set_tracking_uri(own_home.tracking_uri)
    first = registry.find_version(own_home, "1")
    source = client.get_model_version(registry.PHANTOM_MODEL, "1").source
    figures = {evaluations.TEST_FIGURES: json.dumps(GOOD)}
    gate.promote(own_home, version="1", force=True, reason="the champion of before")
    same = {"champion": "1", "comparable": True, "auc_difference": 0.01, "ci95": [-0.01, 0.03],
            "probability_worse": 0.2, "standard_error": 0.01}  # fmt: skip
    tags = {**first.tags, **figures, "busi.simulated": "false"}
    tags["busi.against_champion"] = json.dumps(same)
    made = [
        client.create_model_version(registry.PHANTOM_MODEL, source, run_id=first.run_id, tags=tags)
        for _ in range(2)
    ]

    def attempt(version: str) -> str:
        try:
            return gate.promote(own_home, version=version).decision
        except GateRefused as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(attempt, [str(version.version) for version in made]))
    assert outcomes.count("promoted") == 1
    (refused,) = [outcome for outcome in outcomes if outcome != "promoted"]
    winner = str(made[outcomes.index("promoted")].version)
    assert f"not compared with the champion, version {winner}" in refused
    champion = registry.current_champion(own_home)
    assert champion is not None
    assert champion.version == winner


def test_models_that_are_not_there(tiny_result: StudyResult, home: Home) -> None:
    with pytest.raises(InputError, match="busi-search run"):
        load_champion(home)
    own = tiny_result.context.home
    with pytest.raises(InputError, match="no champion"):
        load_champion(own)
    for uri in ("models:/busi-classifier/77", "busi-classifier", "models:/x"):
        with pytest.raises(InputError):
            load_champion(own, uri)


def test_a_tampered_model_is_refused(tiny_result: StudyResult, tmp_path: Path) -> None:
    """A pickle in the place of the pt2 program is never opened."""
    home_copy = tmp_path / "copy"
    shutil.copytree(tiny_result.context.home.root, home_copy)
    (pt2,) = (tiny_result.context.home.root / "artifacts").rglob("model.pt2")
    whole = pt2.read_bytes()

    class Attack:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, ("raise SystemExit('a pickle was run')",))

    try:
        torch.save(Attack(), pt2)
        with pytest.raises(BusiSearchError, match="cannot be loaded"):
            load_champion(tiny_result.context.home, "models:/busi-classifier/1")
        pt2.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BusiSearchError, match="cannot be loaded"):
            load_champion(tiny_result.context.home, "models:/busi-classifier/1")
    finally:
        pt2.write_bytes(whole)


def test_the_report_is_whole_and_needs_no_network(tiny_result: StudyResult, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    load_study("quickstart-phantom", home=tiny_result.context.home).report(target)
    page = target.read_text()
    for words in (
        "ROC",
        "Calls at the operating point",
        "mean nothing for patients",
        "after correction",
        "Model card",
        "Partition unit",
        "The sealed test has not been opened",
        "Best trials",
    ):
        assert words.lower() in page.lower()
    assert "<script src=" not in page
    assert len(page) < 12_000_000
    with pytest.raises(InputError, match="quickstart-phantom"):
        load_study("absent", home=tiny_result.context.home)


def test_the_leaderboard_has_an_address(tiny_result: StudyResult, home: Home) -> None:
    url = leaderboard_url(tiny_result.context.home, "http://127.0.0.1:5000")
    assert f"/experiments/{tiny_result.experiment_id}/runs" in url
    with pytest.raises(InputError, match="busi-search run"):
        leaderboard_url(home, "http://127.0.0.1:5000")


def test_a_version_made_twice_by_a_lost_answer_is_there_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = MlflowClient.create_model_version

    def sent_again(*arguments: object, **options: object) -> object:
        create(*arguments, **options)
        return create(*arguments, **options)

    monkeypatch.setattr(MlflowClient, "create_model_version", sent_again)
    result = run_study(
        "quickstart", trials=1, home=home.root, overrides=TINY, device="cpu", inline=True
    )
    assert result.release is not None
    assert result.release.version.version == "1"
    versions = MlflowClient(home.tracking_uri).search_model_versions(
        "name='busi-classifier-phantom'"
    )
    assert [str(version.version) for version in versions] == ["1"]


def test_a_local_registry_that_fails_for_good_is_not_waited_for(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def full(*_: object, **__: object) -> None:
        asked.append(True)
        raise MlflowException("database or disk is full")

    monkeypatch.setattr(MlflowClient, "create_model_version", full)
    with pytest.raises(BusiSearchError, match="disk is full"):
        run_study("quickstart", trials=1, home=home.root, overrides=TINY, device="cpu", inline=True)
    assert len(asked) == 2
