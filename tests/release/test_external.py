"""A frozen model on images of elsewhere, and a version set to them, from end to end on phantoms."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

import busi_search
from busi_search.data.image_cache import load_images
from busi_search.data.phantom import simulate_phantom, write_phantom
from busi_search.data.sources import load_dataset
from busi_search.errors import InputError
from busi_search.home import Home, open_home
from busi_search.models.external_evaluations import external_evaluations
from busi_search.models.judging import ask_module
from busi_search.models.loading import load_champion
from busi_search.models.registry import find_version
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.release.external import ASKED, FIGURES, evaluate_elsewhere
from busi_search.release.recalibrate import recalibrate_model
from busi_search.report.reopened import study_page
from busi_search.report.study_view import load_study
from busi_search.run import run_study
from busi_search.search.reopen import reopen_study
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord
from tests.command import call_here, one_sentence

SMALL = ("epochs=2", "architecture='small_cnn'", "image_size_pixels=28", "num_folds=3",
         "pruner='none'")  # fmt: skip


pytestmark = pytest.mark.slow


def _images(folder: Path) -> Path:
    """Where phantoms lie that were written into a folder."""
    inside = folder / "Dataset_BUSI_with_GT"
    return inside if inside.is_dir() else folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search, and a second hospital that holds six of its images, one rescaled."""
    root = tmp_path_factory.mktemp("hospitals")
    write_phantom(root / "own", simulate_phantom(120, size_pixels=64, seed=3))
    run_study(
        "busi", data=str(root / "own"), trials=2, home=root / "home", weights="none",
        overrides=SMALL, device="cpu", inline=True,
    )  # fmt: skip
    write_phantom(root / "other", simulate_phantom(90, size_pixels=64, seed=4))
    home = open_home(root / "home")
    context = reopen_study(find_study(home, "busi"), home=home)
    chosen = [p for p in context.development.paths if "malignant" in p][:4]
    for number, path in enumerate(chosen):
        source, target = (
            _images(root / "own") / path,
            _images(root / "other") / "malignant" / f"known {number}.png",
        )
        if number < 3:
            shutil.copy(source, target)
        else:
            Image.open(source).resize((96, 96), Image.Resampling.BICUBIC).save(target)
    everyone = load_dataset(context.spec.dataset).paths
    in_test = [everyone[index] for index in context.partition.test[:2]]
    for number, path in enumerate(in_test):
        label = Path(path).parent.name
        shutil.copy(
            _images(root / "own") / path, _images(root / "other") / label / f"tested {number}.png"
        )
    return root


@pytest.fixture(scope="module")
def home(place: Path) -> Home:
    return open_home(place / "home")


def test_a_model_is_asked_once_and_known_images_are_left_out(place: Path, home: Home) -> None:
    ledger = SealLedger(home, "busi")
    before = ledger.num_openings()
    report = evaluate_elsewhere("busi", str(place / "other"), home=home, prevalences=[0.02])
    left_out = report.data.left_out
    assert sorted(left_out.in_development) == [f"malignant/known {n}.png" for n in range(4)]
    assert len(left_out.in_own_test) == 2
    assert report.evaluations == 1
    # The own sealed test was not opened: its images were left out.
    assert ledger.num_openings() == before
    printed = report.to_json()
    json.dumps(printed, allow_nan=False)
    kinds = [entry["kind"] for entry in ledger.entries()]
    assert kinds[-2:] == [ASKED, FIGURES]
    again = evaluate_elsewhere("busi", str(place / "other"), home=home)
    assert again.evaluations == 2
    assert again.to_json()["external"] == printed["external"]


def test_figures_are_those_of_the_frozen_model(place: Path, home: Home) -> None:
    report = evaluate_elsewhere("busi", str(place / "other"), home=home, prevalences=[0.02, 0.5])
    classifier = load_champion(home, "models:/busi-classifier@candidate")
    pixels = np.array(load_images(report.data.dataset, classifier.size_pixels, home.cache))
    rows = ask_module(classifier.module, pixels)
    positive = classifier.class_names.index("malignant")
    names = np.array([Path(path).parent.name for path in report.data.dataset.paths])
    called, ill = rows[:, positive] >= classifier.operating_threshold, names == "malignant"
    printed = report.to_json()
    assert printed["external"]["sensitivity"] == pytest.approx(np.mean(called[ill]))
    assert printed["external"]["specificity"] == pytest.approx(np.mean(~called[~ill]))
    assert printed["external"]["positive_class"] == "malignant"
    assert printed["external_all_classes"]["accuracy"] == pytest.approx(
        np.mean(np.array(classifier.class_names)[rows.argmax(axis=1)] == names)
    )
    assert [row["prevalence"] for row in printed["prevalences"]] == [0.02, 0.5]
    found, alarms = np.mean(called[ill]), np.mean(called[~ill])
    for row in printed["prevalences"]:
        share = row["prevalence"]
        expected = found * share + alarms * (1 - share)
        assert row["ppv"] == (pytest.approx(found * share / expected) if expected else None)
    assert {row["by"] for row in printed["subgroups"]} == {"lesion size"}
    assert {row["what"] for row in printed["local_data"]} == {
        "as it is",
        "threshold",
        "calibration",
    }


def test_mlflow_and_python_show_it_beside_the_rest(place: Path, home: Home) -> None:
    report = evaluate_elsewhere("busi", str(place / "other"), home=home)
    version = find_version(home, "candidate")
    (found,) = external_evaluations(version)
    assert found["auc"] == report.to_json()["external"]["auc"]
    assert float(version.tags["busi.external_busi_auc"]) == pytest.approx(found["auc"], abs=1e-4)
    client = MlflowClient(home.tracking_uri, registry_uri=home.tracking_uri)
    run = client.get_run(found["run_id"])
    assert run.data.tags["busi.kind"] == "external"
    study_run = client.get_run(run.data.tags["mlflow.parentRunId"])
    assert study_run.data.tags["busi.kind"] == "study"
    assert run.data.metrics["external_auc"] == found["auc"]
    on_version = client.get_run(version.run_id).data.metrics
    assert on_version["external_busi_auc"] == found["auc"]
    path = client.download_artifacts(found["run_id"], "external_predictions.json")
    assert set(json.loads(Path(path).read_text())) == set(report.data.dataset.paths)
    table = load_study("busi", home=home).external_evaluations()
    assert table["auc"].tolist() == [found["auc"]]
    listed = call_here("--home", home.root, "models", "--json")
    (model,) = [m for m in json.loads(listed.stdout)["models"] if m["version"] == version.version]
    assert model["external"] == [found]
    assert busi_search.evaluate_elsewhere.__doc__ == evaluate_elsewhere.__doc__


def test_the_study_page_shows_other_hospitals_and_subgroups(place: Path, home: Home) -> None:
    evaluate_elsewhere("busi", str(place / "other"), home=home)
    own = evaluate_sealed_test(home, "busi").to_json()
    assert own["of_positive"]["num_images"] == own["test"]["num_images"]
    assert {row["by"] for row in own["subgroups"]} == {"lesion size"}
    page = study_page(home, "busi")
    for text in (
        "AUC, sensitivity and specificity by subgroup",
        "development, out of fold",
        "own sealed test, version 1",
        "busi, version 1",
        "4 that show scans that the model was developed on",
        "what local images would change",
        "Other hospitals",
    ):
        assert text in page, text
    assert "lesion size: no lesion marked" in page


def test_the_pages_in_mlflow_lead_with_the_test_once_it_was_opened(place: Path, home: Home) -> None:
    evaluate_elsewhere("busi", str(place / "other"), home=home)
    answer = call_here("--home", home.root, "evaluate", "busi", "--json")
    assert answer.returncode == 0, answer.stderr
    assert "not rendered" not in answer.stderr
    test = json.loads(answer.stdout)["test"]
    client = MlflowClient(home.tracking_uri, registry_uri=home.tracking_uri)
    tracked = StudyRecord(find_study(home, "busi")).tracked
    assert tracked is not None
    texts = {
        name: Path(client.download_artifacts(tracked.run_id, name)).read_text(encoding="utf-8")
        for name in ("report.html", "model_card.md")
    }
    texts["run"] = client.get_run(tracked.run_id).data.tags["mlflow.note.content"]
    texts["version"] = client.get_model_version("busi-classifier", "1").description
    said = f"{100 * test['sensitivity']:.0f} % (95 % interval"
    for name, text in texts.items():
        assert f"it found {said}" in text.replace("\xa0", " "), name
        assert "has not been opened" not in text, name
        assert "Opened 0" not in text, name
    assert texts["report.html"].index("unseen images") < texts["report.html"].index(
        "In cross-validation on"
    )
    assert texts["version"].startswith("**Sealed test:**")
    facts = {
        answer.number: answer for answer in load_study("busi", home=home).checklist("claim").answers
    }
    assert any("busi, version 1" in text for text in facts["33"].said)


def test_a_sealed_image_of_another_study_is_counted_or_kept(place: Path, home: Home) -> None:
    run_study(
        "busi", name="rival", data=str(place / "other"), trials=1, home=home.root, weights="none",
        overrides=SMALL, device="cpu", inline=True,
    )  # fmt: skip
    ledger = SealLedger(home, "rival")
    kept = evaluate_elsewhere(
        "busi", str(place / "other"), home=home, keep_sealed=True, version="1"
    )
    assert len(kept.data.left_out.sealed) > 0
    assert kept.opened is None
    assert ledger.num_openings() == 0
    counted = evaluate_elsewhere("busi", str(place / "other"), home=home, version="1")
    assert counted.opened is not None
    assert "'rival'" in counted.opened
    (entry,) = [e for e in ledger.entries() if e["kind"] == "opened"]
    assert (entry["how"], entry["version"]) == ("evaluate", "1")
    assert entry["num_images"] == len(kept.data.left_out.sealed)


def test_two_classes_against_three_need_a_word(place: Path, home: Home, tmp_path: Path) -> None:
    other = tmp_path / "two"
    for name, source in (("malignant", "malignant"), ("normal or benign", "benign")):
        shutil.copytree(_images(place / "other") / source, other / name)
    words = ["--home", home.root, "evaluate", "busi", "--version", "1", "--data", other]
    refused = call_here(*words)
    assert refused.returncode == 2
    assert one_sentence(refused)
    assert '--map "normal or benign=benign"' in refused.stderr
    answer = call_here(*words, "--map", "normal or benign=benign", "--json")
    assert answer.returncode == 0, answer.stderr
    printed = json.loads(answer.stdout)
    assert printed["data"]["class_map"] == {"malignant": "malignant", "normal or benign": "benign"}
    assert "external_all_classes" not in printed
    text = call_here(*words, "--map", "normal or benign=benign", "--prevalence", "0.02")
    assert "ppv at prevalence 0.02" in text.stdout
    assert "Left out: 4 images show scans that the model was developed on" in text.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--map", "a=b"], "--data PATH"),
        (["--prevalence", "0.1"], "--data PATH"),
        (["--keep-sealed"], "Without images from another hospital"),
        (["--data", "absent"], "absent"),
        (["--data", "OTHER", "--prevalence", "2"], "between 0 and 1"),
        (["--data", "OTHER", "--version", "77"], "77"),
        (
            ["--data", "OTHER", "--version", "1", "--model-uri", "models:/busi-classifier/1"],
            "twice",
        ),
        (["--data", "OTHER", "--map", "normal=healthy"], "no class 'healthy'"),
        (["--data", "OTHER", "--map", "malignant=leave out"], "at least two of each"),
    ],
)
def test_wrong_use_is_one_sentence(
    place: Path, home: Home, words: list[str], sentence: str
) -> None:
    replaced = {"OTHER": str(place / "other")}
    typed = [replaced.get(word, word) for word in words]
    answer = call_here("--home", home.root, "evaluate", "busi", *typed)
    assert answer.returncode == 2
    assert one_sentence(answer), answer.stderr
    assert sentence in answer.stderr


def test_a_recalibrated_version_goes_through_the_gate_and_knows_its_images(
    place: Path, home: Home
) -> None:
    with pytest.raises(InputError, match="by study 'busi'"):
        recalibrate_model("rival", str(place / "other"), home=home, version="1")
    result = recalibrate_model(
        "busi", str(place / "other"), home=home, version="1", sensitivity=0.8
    )
    made = find_version(home, "candidate")
    assert made.version == result.version.version
    assert made.tags["busi.parent_version"] == "1"
    assert json.loads(made.tags["busi.recalibration"])["data"]["name"] == "busi"
    parent = load_champion(home, "models:/busi-classifier/1")
    child = load_champion(home, f"models:/busi-classifier/{made.version}")
    pixels = np.random.default_rng(0).integers(0, 255, (3, 28, 28), dtype=np.uint8)
    answers = (ask_module(model.module, pixels) for model in (parent, child))
    assert next(answers) == pytest.approx(next(answers), abs=1e-6)
    assert child.operating_threshold == result.after.threshold != parent.operating_threshold
    # Its own images are no test of it any more, and still one of its parent.
    with pytest.raises(InputError, match="the model's study holds them"):
        evaluate_elsewhere("busi", str(place / "other"), home=home, version=made.version)
    evaluate_elsewhere("busi", str(place / "other"), home=home, version="1")
    # The own test judges it, by its own threshold.
    own = evaluate_sealed_test(home, "busi", version=made.version).to_json()
    assert own["test"]["operating_threshold"] == result.after.threshold
    again = run_study(
        "busi", data=str(place / "own"), trials=2, home=home.root, weights="none",
        overrides=SMALL, device="cpu", inline=True,
    )  # fmt: skip
    assert again.release is not None
    assert again.release.version.version == "1"


def test_both_may_be_set_anew_and_the_answers_follow(place: Path, home: Home) -> None:
    answer = call_here(
        "--home", home.root, "recalibrate", "busi", "--version", "1", "--data", place / "other",
        "--keep", "nothing", "--json",
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    printed = json.loads(answer.stdout)
    after = printed["after"]
    assert (after["intercept"], after["slope"]) != (0.0, 1.0)
    parent = load_champion(home, "models:/busi-classifier/1")
    child = load_champion(home, f"models:/busi-classifier/{printed['model']['version']}")
    pixels = np.random.default_rng(0).integers(0, 255, (4, 28, 28), dtype=np.uint8)
    before, now = (ask_module(model.module, pixels) for model in (parent, child))
    positive = parent.class_names.index("malignant")
    odds = np.log(before[:, positive] / (1 - before[:, positive]))
    expected = 1 / (1 + np.exp(-(after["intercept"] + after["slope"] * odds)))
    assert now[:, positive] == pytest.approx(expected, abs=1e-5)
    assert now.sum(axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert child.metadata["recalibration"]["parent_version"] == "1"
    assert SealLedger(home, "busi").entries()[-1]["kind"] == "recalibration"
