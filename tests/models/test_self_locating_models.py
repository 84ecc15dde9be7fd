"""A study whose networks find the lesion, from its search to its answers."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from busi_search.data.phantom import simulate_phantom
from busi_search.errors import InputError
from busi_search.models.loading import load_champion
from busi_search.models.onnx import export_onnx
from busi_search.models.predict import Classifier
from busi_search.release.audit import plan_audit, repeat_context, run_audit
from busi_search.release.audit_splits import outer_split
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.release.replay import replay_trial
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study
from busi_search.search import found_lesions
from busi_search.search.found_lesions import FoundLesions, crop_of
from busi_search.serving.verdict import describe_model, judge_image
from busi_search.study_files import load_spec
from tests.command import call_here, one_sentence

CANDIDATE = "models:/busi-classifier@candidate"
STUDY = """
[study]
sampler = "grid"
pruner = "none"
[dataset]
source = "busi"
path = "{path}"
num_folds = 2
image_size_pixels = 32
region = "{region}"
lesions = "found"
[hyperparameters]
epochs = 1
architecture = "small_cnn"
{more}
[space]
region_margin = [0.25]
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of three classes as BUSI lies; the normal ones have empty masks."""
    root = tmp_path_factory.mktemp("found") / "images"
    phantom = simulate_phantom(130, size_pixels=64, seed=4)
    for index, label in enumerate(phantom.labels):
        name = phantom.class_names[label]
        (root / name).mkdir(parents=True, exist_ok=True)
        for kind, pixels in (("", phantom.images[index]), ("_mask", phantom.masks[index] * 255)):
            picture = Image.fromarray(pixels.astype(np.uint8))
            picture.save(root / name / f"{name} ({index}){kind}.png")
    return root


@pytest.fixture(scope="module")
def result(images: Path) -> StudyResult:
    study = images.parent / "found.toml"
    study.write_text(STUDY.format(path=images, region="both", more=""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(found_lesions, "NUM_STEPS", 2)
        patch.setattr(found_lesions, "FEWEST_MASKS", 10)
        home = images.parent / "home"
        return run_study(str(study), trials=1, home=home, name="found", device="cpu", inline=True)


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the study was made with, for all that opens it again."""
    monkeypatch.setattr(found_lesions, "NUM_STEPS", 2)
    monkeypatch.setattr(found_lesions, "FEWEST_MASKS", 10)


@pytest.fixture(scope="module")
def classifier(result: StudyResult) -> Classifier:
    return load_champion(result.context.home, CANDIDATE)


def test_the_model_takes_whole_images_and_says_so(
    result: StudyResult, classifier: Classifier
) -> None:
    assert result.release is not None
    assert result.release.rebuilt_difference == 0.0
    assert classifier.size_pixels == 64
    assert not classifier.geometry.needs_lesion
    assert "the model finds the lesion in it" in classifier.preprocessing
    assert "(N, 1, S, S)" in classifier.preprocessing
    # Normal images, without a lesion, are no longer a reason to refuse the study.
    assert set(result.context.development.labels.tolist()) == {0, 1, 2}


def test_every_image_is_cut_by_the_fold_that_validates_it(result: StudyResult) -> None:
    context = result.context
    hyperparameters = context.spec.resolve({"region_margin": 0.25})
    geometry = context.geometry(hyperparameters)
    seen = np.array(context.images_for(hyperparameters))
    assert seen.shape == (len(context.development), 2, 32, 32)
    whole = np.array(context.images(*context.model_input(hyperparameters)))
    finders = context.found_lesions.finders(geometry)
    cuts = []
    for finder in finders:
        crop = crop_of([finder], size_pixels=32, geometry=geometry)
        with torch.inference_mode():
            cuts.append(crop(torch.from_numpy(whole).float().unsqueeze(1)).round().numpy())
    assert not np.array_equal(cuts[0], cuts[1])
    for own, other, fold in zip(cuts, cuts[::-1], context.partition.folds, strict=True):
        np.testing.assert_array_equal(seen[fold.validation], own[fold.validation])
        assert not np.array_equal(seen[fold.validation], other[fold.validation])


def test_machines_without_the_files_get_the_regions_as_found(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    hyperparameters = result.context.spec.resolve({"region_margin": 0.25})
    here = np.array(result.context.images_for(hyperparameters))
    sent = pickle.loads(pickle.dumps(result.context.to_send()))
    monkeypatch.setattr(FoundLesions, "regions", None)
    np.testing.assert_array_equal(sent.images_for(hyperparameters), here)


def test_an_audit_finds_lesions_of_outer_images_as_the_model_does(result: StudyResult) -> None:
    plan = plan_audit(result.context.home, "found", num_repeats=1)
    split = outer_split(plan.context, 0)
    context = repeat_context(plan, split)
    hyperparameters = context.spec.resolve({"region_margin": 0.25})
    geometry = context.geometry(hyperparameters)
    seen = np.array(context.images_for(hyperparameters))
    whole = np.array(context.images(*context.model_input(hyperparameters)))[split.outer]
    finders = context.found_lesions.finders(geometry)
    own = result.context.found_lesions.finders(geometry)
    assert not torch.equal(next(finders[0].parameters()), next(own[0].parameters()))
    crop = crop_of(finders, size_pixels=32, geometry=geometry)
    with torch.inference_mode():
        cut = crop(torch.from_numpy(whole).float().unsqueeze(1)).round().numpy()
    np.testing.assert_array_equal(seen[split.outer], cut)
    *_, done = run_audit(plan, inline=True)
    assert done[0].num_outer == len(split.outer)


def test_a_fold_learns_from_no_mask_of_its_validation_images(
    result: StudyResult, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = result.context
    learned: list[np.ndarray] = []

    def note(images: np.ndarray, masks: np.ndarray, **_: object) -> torch.nn.Module:
        learned.append(np.array(images))
        assert masks.any(axis=(1, 2)).all(), "an image without a lesion says its class"
        return torch.nn.Linear(1, 1)

    monkeypatch.setattr(found_lesions, "train_finder", note)
    monkeypatch.setattr(found_lesions, "_read", lambda path: path if path.exists() else None)
    geometry = context.geometry(context.spec.resolve({"region_margin": 0.25}))
    folds = context.partition.folds
    for number, fold in enumerate(folds):
        FoundLesions(context.development, [fold], number, tmp_path).finders(geometry)
    small = np.array(context.images(160, geometry.whole))
    for images, fold in zip(learned, folds, strict=True):
        hidden = {image.tobytes() for image in small[fold.validation]}
        assert len(images) > 10
        assert not hidden & {image.tobytes() for image in images}


def test_predictions_need_no_place_and_take_none(
    classifier: Classifier, images: Path, tmp_path: Path
) -> None:
    path = sorted((images / "benign").glob("*(*).png"))[0]
    alone = tmp_path / "new.png"
    alone.write_bytes(path.read_bytes())
    (answer,) = classifier.predict(alone)
    (beside_its_mask,) = classifier.predict(path)
    assert answer.probabilities == beside_its_mask.probabilities
    with pytest.raises(InputError, match="finds lesions itself and takes no boxes"):
        classifier.predict(alone, boxes={alone: (0, 0, 10, 10)})
    said = judge_image(classifier, alone.read_bytes(), explain=True)
    assert said["probabilities"] == pytest.approx(answer.probabilities, abs=1e-6)
    assert said["region"] == describe_model(classifier)["region"] == "image"
    assert said["occlusion"]["overlay"].startswith("data:image/png")


def test_the_study_is_tested_replayed_and_reported(result: StudyResult) -> None:
    home = result.context.home
    report = evaluate_sealed_test(home, "found")
    assert report.version.version == result.release.version.version
    assert replay_trial(home, "found", 0).agrees
    again = run_study(
        str(home.root.parent / "found.toml"),
        trials=1, home=home.root, name="found", device="cpu", inline=True,
    )  # fmt: skip
    assert again.release is not None
    assert not again.release.new


@pytest.mark.slow
def test_it_becomes_an_onnx_file(result: StudyResult, classifier: Classifier) -> None:
    context = result.context
    pixels = np.array(context.images(64, classifier.geometry)[:4])
    assert len(export_onnx(classifier, pixels)) > 1_000_000


def test_what_cannot_be_is_refused_in_one_sentence(
    result: StudyResult, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(region: str = "both", more: str = "") -> str:
        study = tmp_path / "study.toml"
        study.write_text(STUDY.format(path=images, region=region, more=more))
        with pytest.raises(InputError) as error:
            load_spec(str(study))
        return str(error.value)

    assert 'lesions = "found" needs region' in refused(region="image")
    assert "mask_weight and lesions" in refused(more="mask_weight = 0.3")
    monkeypatch.setattr(found_lesions, "FEWEST_MASKS", 1000)
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(path=images, region="both", more=""))
    home = str(tmp_path / "home")
    answer = call_here("--home", home, "run", str(study), "--trials", "1")
    assert answer.returncode == 2
    assert one_sentence(answer)
    assert "learns from lesion masks" in answer.stderr
