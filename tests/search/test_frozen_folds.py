"""Trials whose head is solved for: exact, honest, and released like all others."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from busi_search.data.folds import make_folds
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.loading import load_champion
from busi_search.models.onnx import export_onnx
from busi_search.release.learning_curve import measure_learning_curve
from busi_search.release.replay import replay_trial
from busi_search.report.reopened import reopen_winner, study_page
from busi_search.run import run_study
from busi_search.search.cross_validation import DevelopmentSet, cross_validate
from busi_search.search.fold_result import FoldResult, fold_results
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.open import find_study
from busi_search.search.store.records import trial_hyperparameters
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import Hyperparameters
from busi_search.training.fit import predict_log_probabilities
from busi_search.training.inputs import PixelInputs, place_pixels
from busi_search.training.zoo import build_model

LABELS = np.arange(60) % 3
FOLDS = make_folds(LABELS, np.arange(60), num_folds=3, seed=0)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A backbone's weights as a file; which ones does not matter here."""
    path = tmp_path_factory.mktemp("weights") / "backbone.safetensors"
    torch.manual_seed(5)
    state = build_model("small_cnn", num_classes=2).stages.state_dict(prefix="stages.")
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return str(path)


def _images() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 160, (60, 28, 28))
    return (noise + 12 * LABELS[:, None, None]).astype(np.uint8)


def _run(
    weights: str, images: np.ndarray | None = None, trial: int = 0, **options: object
) -> list[FoldResult]:
    settings = options.pop("settings", {})
    chosen = Hyperparameters(
        weights=weights, head="logistic", epochs=1, image_size_pixels=28, test_time_flip=True,
        **settings,
    )  # fmt: skip
    pictures = _images() if images is None else images
    data = DevelopmentSet(pictures, LABELS, np.arange(60), FOLDS, num_classes=3, positive=1)
    steps = cross_validate(data, chosen, study_seed=0, trial_number=trial, **options)
    return sorted(fold_results(steps), key=lambda result: result.fold)


def test_the_fold_models_give_from_pixels_what_was_scored(weights: str) -> None:
    settings = {"pooling": "avgmax", "feature_layers": 2, "l2_strength": 0.3}
    inputs = PixelInputs(place_pixels(_images(), "cpu"), lambda x, y, _: (x, y), "cpu")
    for result, fold in zip(_run(weights, settings=settings), FOLDS, strict=True):
        assert result.model is not None
        again = predict_log_probabilities(result.model, inputs, fold.validation)
        np.testing.assert_allclose(again, result.log_probabilities, atol=1e-4)
        assert (result.val_epochs, len(result.train_loss)) == ((1,), 1)


def test_a_trial_is_the_same_from_any_fold_with_or_without_a_cache(
    weights: str, tmp_path: Path
) -> None:
    settings = {"augmentation_views": 2}
    first = _run(weights, settings=settings)
    variants = [
        _run(weights, settings=settings, first_fold=2),
        _run(weights, settings=settings, trial=9, cache=tmp_path),
        _run(weights, settings=settings, cache=tmp_path),
        _run(weights, settings=settings, finished={1: first[1]}),
    ]
    for other in variants:
        for one, two in zip(first, other, strict=True):
            np.testing.assert_array_equal(one.log_probabilities, two.log_probabilities)
    assert variants[-1][1] is first[1]


def test_images_that_are_held_out_leave_no_trace_in_the_head(weights: str) -> None:
    images = _images()
    before = _run(weights, images)[0]
    images[FOLDS[0].validation] = 255 - images[FOLDS[0].validation] // 3
    after = _run(weights, images)[0]
    assert before.model is not None
    assert after.model is not None
    for one, two in zip(before.model.head.parameters(), after.model.head.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not np.array_equal(before.log_probabilities, after.log_probabilities)


def test_classes_may_be_balanced(weights: str) -> None:
    plain, balanced = (
        _run(weights, settings={"class_weighting": name}) for name in ("none", "balanced")
    )
    # The classes are equally frequent here but for what the folds leave over.
    for one, two in zip(plain, balanced, strict=True):
        np.testing.assert_allclose(one.log_probabilities, two.log_probabilities, atol=0.3)


STUDY = """
[study]
sampler = "tpe"
pruner = "evidence"
startup_trials = 3
[dataset]
source = "phantom"
phantom_num_images = 90
num_folds = 3
image_size_pixels = 28
[hyperparameters]
architecture = "small_cnn"
weights = "WEIGHTS"
test_time_flip = true
epochs = 2
[space]
head = ["logistic", "linear"]
learning_rate = { low = 1e-4, high = 1e-2, log = true, only_if = { head = ["linear"] } }
l2_strength = { low = 1e-2, high = 10.0, log = true, only_if = { head = ["logistic"] } }
pooling = ["avg", "max", "avgmax"]
feature_layers = { low = 1, high = 3 }
[[recipe]]
name = "solved"
head = "logistic"
pooling = "avgmax"
feature_layers = 3
"""


@pytest.mark.slow
def test_both_kinds_of_head_race_in_one_study_and_the_winner_is_registered(
    weights: str, tmp_path: Path
) -> None:
    study_file = tmp_path / "heads.toml"
    study_file.write_text(STUDY.replace("WEIGHTS", weights))
    result = run_study(
        str(study_file), trials=12, home=tmp_path / "home", device="cpu", inline=True
    )
    context = result.context
    trials = find_study(context.home, context.name).get_trials(deepcopy=False)
    heads = [trial_hyperparameters(trial).head for trial in trials]
    assert {"logistic", "linear"} == set(heads)
    assert not [trial.number for trial in trials if trial.state.name not in ("COMPLETE", "PRUNED")]
    for trial, head in zip(trials, heads, strict=True):
        if head == "logistic":
            folds = stored_folds(trial, 3).values()
            assert all(fold.val_epochs == (1,) for fold in folds)
            assert "learning_rate" not in trial.params
    solved = heads.index("logistic")
    assert replay_trial(context.home, context.name, solved).agrees
    assert result.release is not None
    version = result.release.version
    classifier = load_champion(context.home, f"models:/{version.name}/{version.version}")
    images = np.array(context.images(classifier.size_pixels)[:4])
    assert len(export_onnx(classifier, images)) > 1000
    json.dumps(result.to_json(), allow_nan=False)
    _check_growth(context.home, context.name)


def _check_growth(home: Home, name: str) -> None:
    """The score over the number of images is measured where the winner's head was solved for."""
    winner = reopen_winner(home, name)
    curve = StudyRecord(find_study(home, name)).learning_curve
    if winner.hyperparameters.head != "logistic":
        assert curve is None
        return
    assert curve is not None
    assert curve.trial == winner.number
    shares = [point.share for point in curve.points]
    assert shares[-2:] == [0.5, 1.0]
    assert shares == sorted(shares)
    assert curve.points[-1].score == winner.metrics["cv_auc"]
    numbers = [point.num_images for point in curve.points]
    assert numbers == sorted(numbers)
    assert all(point.low <= point.score <= point.high for point in curve.points)
    assert "Score over the number of images to learn from" in study_page(home, name)
    assert measure_learning_curve(winner) == curve


def test_random_features_are_refused(tmp_path: Path) -> None:
    study_file = tmp_path / "heads.toml"
    study_file.write_text(STUDY.replace("WEIGHTS", "none"))
    with pytest.raises(InputError, match="small_cnn would have random ones"):
        run_study(str(study_file), trials=1, home=tmp_path / "home", device="cpu", inline=True)
