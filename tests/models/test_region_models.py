"""A model that looks at the lesion, from its search to its answers."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.geometry import Geometry
from busi_search.data.phantom import simulate_phantom
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.lesion_places import read_boxes
from busi_search.models.loading import load_champion
from busi_search.models.onnx import export_onnx
from busi_search.models.predict import Classifier
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.release.replay import replay_trial
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study
from busi_search.serving.verdict import describe_model, judge_image
from tests.command import call_here

CANDIDATE = "models:/busi-classifier@candidate"
STUDY = """
[study]
sampler = "grid"
pruner = "none"
[dataset]
source = "busi"
path = "{path}"
num_folds = 2
aspect = "letterbox"
image_size_pixels = 28
[hyperparameters]
epochs = 1
architecture = "small_cnn"
mask_weight = 0.3
region = "both"
[space]
crop = ["none", "auto"]
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wide benign and malignant phantoms with masks and a black strip below, as BUSI lies."""
    root = tmp_path_factory.mktemp("wide") / "images"
    phantom = simulate_phantom(70, size_pixels=64, seed=4)
    for index, label in enumerate(phantom.labels):
        name = phantom.class_names[label]
        if name == "normal":
            continue
        (root / name).mkdir(parents=True, exist_ok=True)
        for kind, pixels in (("", phantom.images[index]), ("_mask", phantom.masks[index] * 255)):
            wide = Image.new("L", (96, 80))
            wide.paste(Image.fromarray(pixels.astype(np.uint8)).resize((96, 64)))
            wide.save(root / name / f"{name} ({index}){kind}.png")
    return root


@pytest.fixture(scope="module")
def result(images: Path) -> StudyResult:
    study = images.parent / "both.toml"
    study.write_text(STUDY.format(path=images))
    home = images.parent / "home"
    return run_study(str(study), trials=2, home=home, name="both", device="cpu", inline=True)


@pytest.fixture(scope="module")
def classifier(result: StudyResult) -> Classifier:
    return load_champion(result.context.home, CANDIDATE)


@pytest.fixture
def outside(images: Path, tmp_path: Path) -> Path:
    """An image without a mask beside it."""
    first = sorted((images / "benign").glob("*(*).png"))[0]
    target = tmp_path / "new.png"
    Image.open(first).save(target)
    return target


def test_the_model_keeps_its_geometry(result: StudyResult, classifier: Classifier) -> None:
    assert result.release is not None
    assert result.release.rebuilt_difference == 0.0
    assert classifier.geometry.region == "both"
    assert classifier.geometry.aspect == "letterbox"
    assert "beside it, the lesion's box" in classifier.preprocessing
    assert "(N, 2, S, S)" in classifier.preprocessing
    # One of the two trials cuts off the strip, and found it.
    screen = result.context.screen
    assert screen is not None
    assert screen.bottom == pytest.approx(0.8, abs=0.01)
    assert any("20.3% below" in s or "19.5% below" in s for s in result.context.warnings)
    assert classifier.geometry.crop in (None, screen)


def test_predictions_see_what_training_saw(
    result: StudyResult, classifier: Classifier, images: Path
) -> None:
    context = result.context
    names = [context.development.paths[index] for index in range(4)]
    seen = np.array(context.images(28, classifier.geometry)[:4])
    assert seen.shape == (4, 2, 28, 28)
    answers = classifier.predict([images / name for name in names])
    given = [list(answer.probabilities.values()) for answer in answers]
    np.testing.assert_allclose(given, classifier.predict_pixels(seen), atol=1e-6)


def test_a_box_says_what_a_mask_says(classifier: Classifier, images: Path, outside: Path) -> None:
    path = sorted((images / "benign").glob("*(*).png"))[0]
    mask = np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png"))) > 127
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = (columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1)
    (by_mask,) = classifier.predict(path)
    (by_box,) = classifier.predict(outside, boxes={outside: box})
    assert by_box.probabilities == by_mask.probabilities
    (elsewhere,) = classifier.predict(outside, boxes={outside: (0, 0, 10, 10)})
    assert elsewhere.probabilities != by_mask.probabilities
    answer = judge_image(classifier, outside.read_bytes(), explain=True, box=box)
    assert answer["probabilities"] == pytest.approx(by_mask.probabilities, abs=1e-6)
    assert answer["region"] == describe_model(classifier)["region"] == "both"
    assert answer["occlusion"]["overlay"].startswith("data:image/png")


def test_who_does_not_say_where_the_lesion_is_gets_one_sentence(
    classifier: Classifier, outside: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"1 of 1 image has no box and no mask; name a tab"):
        classifier.predict(outside)
    with pytest.raises(InputError, match="draw a box around it"):
        judge_image(classifier, outside.read_bytes(), explain=False)
    with pytest.raises(InputError, match="does not lie in the image of 96 × 80 pixels"):
        classifier.predict(outside, boxes={outside: (90, 0, 10, 10)})
    Image.fromarray(np.zeros((80, 96), np.uint8)).save(tmp_path / "new_mask.png")
    with pytest.raises(InputError, match="its mask is empty"):
        classifier.predict(outside)


def test_boxes_by_the_command_line(result: StudyResult, outside: Path, tmp_path: Path) -> None:
    table = tmp_path / "boxes.csv"
    table.write_text("file,x,y,width,height\nnew.png,20,10,30,20\n")
    words = ["--home", str(result.context.home.root), "predict", str(outside), "--json"]
    words += ["--model-uri", CANDIDATE]
    found = call_here(*words, "--boxes", str(table))
    assert found.returncode == 0, found.stderr
    assert len(json.loads(found.stdout)["predictions"]) == 1
    without = call_here(*words)
    assert without.returncode == 2
    assert "--boxes FILE.csv" in without.stderr
    assert "Traceback" not in without.stderr


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("file,x,y,width\na.png,1,2,3\n", "no column of boxes; .*file,x,y,width,height"),
        ("file,x,y,width,height\na.png,1,2,3,four\n", "not four numbers"),
        ("file,x,y,width,height\na.png,1,2,3,4\na.png,1,2,3,4\n", "a second box"),
    ],
)
def test_tables_of_boxes_are_checked(content: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(content)
    with pytest.raises(InputError, match=sentence):
        read_boxes(tmp_path / "boxes.csv", [tmp_path / "a.png"])


def test_boxes_of_other_files_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text("file;x;y;width;height\nb.png;1;2;3;4\n/a/c.png;1;1;1;1\n")
    files = [tmp_path / "elsewhere" / "b.png", tmp_path / "c.png"]
    assert read_boxes(tmp_path / "boxes.csv", files) == {files[0]: (1, 2, 3, 4)}


def test_a_model_of_whole_images_takes_no_boxes(tiny_result: StudyResult, tmp_path: Path) -> None:
    whole = load_champion(tiny_result.context.home, CANDIDATE)
    assert whole.geometry == Geometry()
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 64), 90, dtype=np.uint8)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    with pytest.raises(InputError, match="looks at whole images and takes no boxes"):
        whole.predict(tmp_path / "a.png", boxes={tmp_path / "a.png": (0, 0, 9, 9)})
    with pytest.raises(InputError, match="looks at whole images and takes no box"):
        judge_image(whole, buffer.getvalue(), explain=False, box=(0, 0, 9, 9))


def test_replay_export_and_the_sealed_test(result: StudyResult, classifier: Classifier) -> None:
    home: Home = result.context.home
    replay = replay_trial(home, "both", 1)
    assert all(fold.identical for fold in replay.folds)
    report = evaluate_sealed_test(home, "both")
    assert report.figures.to_json()["num_images"] == len(result.context.partition.test)
    pytest.importorskip("onnxscript")
    assert export_onnx(classifier, np.array(result.context.images(28, classifier.geometry)[:3]))


def test_changed_masks_are_another_study(result: StudyResult, images: Path) -> None:
    mask = sorted((images / "malignant").glob("*_mask.png"))[0]
    kept = mask.read_bytes()
    try:
        Image.fromarray(np.full((80, 96), 255, np.uint8)).save(mask)
        with pytest.raises(InputError, match="masks or boxes changed since it began"):
            replay_trial(result.context.home, "both", 0)
    finally:
        mask.write_bytes(kept)
