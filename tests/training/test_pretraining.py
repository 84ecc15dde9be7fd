import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from busi_search.data.phantom import simulate_phantom
from busi_search.data.phantom_scene import MALIGNANT
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.run import run_study
from busi_search.search.prepare import learns_from_phantoms, prepare_study
from busi_search.search.store.open import find_study
from busi_search.training import pretraining
from busi_search.training.pretraining import PretrainingRecipe, phantom_weights
from busi_search.training.zoo import build_model
from tests.conftest import TINY

QUICK = PretrainingRecipe(num_images=60, epochs=1, batch_size=16)


def test_the_same_weights_come_out_and_the_callers_random_stream_goes_on() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = phantom_weights("small_cnn", 28, recipe=QUICK)
    assert torch.equal(torch.rand(4), expected)
    again = phantom_weights("small_cnn", 28, recipe=QUICK)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = phantom_weights("small_cnn", 28, recipe=replace(QUICK, seed=78))
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_they_are_learned_once_and_appear_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = phantom_weights("tiny_resnet", 28, folder=tmp_path, recipe=QUICK)
    (kept,) = tmp_path.glob("*.safetensors")
    assert "tiny_resnet" in kept.name
    assert "28px" in kept.name
    assert not list(tmp_path.glob("*.tmp"))
    monkeypatch.setattr(pretraining, "_learn", _must_not_run)
    again = phantom_weights("tiny_resnet", 28, folder=tmp_path, recipe=QUICK)
    assert all(torch.equal(learned[name], again[name]) for name in learned)
    # Another size or recipe is another file, and a failure leaves none.
    with pytest.raises(RuntimeError, match="learned again"):
        phantom_weights("tiny_resnet", 32, folder=tmp_path, recipe=QUICK)
    assert list(tmp_path.glob("*.safetensors")) == [kept]


def test_damaged_weights_are_learned_again(tmp_path: Path) -> None:
    learned = phantom_weights("small_cnn", 28, recipe=QUICK)
    phantom_weights("small_cnn", 28, folder=tmp_path, recipe=QUICK)
    (kept,) = tmp_path.glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:100])
    again = phantom_weights("small_cnn", 28, folder=tmp_path, recipe=QUICK)
    assert all(torch.equal(learned[name], again[name]) for name in learned)


def test_who_comes_second_waits_for_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def learn(*_: object) -> dict[str, torch.Tensor]:
        calls.append(1)
        time.sleep(0.3)
        return {"stages.0.weight": torch.ones(3)}

    monkeypatch.setattr(pretraining, "_learn", learn)
    ask = partial(phantom_weights, "small_cnn", 28, folder=tmp_path / "weights", recipe=QUICK)
    with ThreadPoolExecutor(3) as pool:
        found = [future.result() for future in [pool.submit(ask) for _ in range(3)]]
    assert len(calls) == 1
    assert all(torch.equal(state["stages.0.weight"], torch.ones(3)) for state in found)


def _must_not_run(*_: object) -> dict[str, torch.Tensor]:
    raise RuntimeError("learned again")


@pytest.mark.slow
def test_what_was_learned_tells_lesions_apart_better_than_random_weights() -> None:
    recipe = PretrainingRecipe(num_images=800, epochs=6)
    phantom = simulate_phantom(300, size_pixels=28, seed=5)
    malignant = phantom.labels == MALIGNANT
    torch.manual_seed(0)
    model = build_model("tiny_resnet", num_classes=2).eval()

    def score() -> float:
        pixels = torch.from_numpy(phantom.images).unsqueeze(1).float()
        with torch.inference_mode():
            features = model.features(model.normalise(pixels)).numpy()
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
        folds = cross_val_score(probe, features, malignant, scoring="roc_auc", cv=5)
        return float(np.mean(folds))

    random = score()
    learned = phantom_weights("tiny_resnet", 28, recipe=recipe)
    problems = model.load_state_dict(learned, strict=False)
    assert {key.partition(".")[0] for key in problems.missing_keys} == {"head"}
    assert not problems.unexpected_keys
    assert score() > random + 0.03


def test_a_study_starts_from_them_and_keeps_them(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pretraining, "DEFAULT_RECIPE", QUICK)
    overrides = (*TINY, "epochs=1", "recipes=[]", 'weights="phantom"')
    context = prepare_study("quickstart", home=home, overrides=overrides, device="cpu")
    assert learns_from_phantoms(context)
    run_study(
        "quickstart",
        trials=2,
        home=home.root,
        overrides=overrides,
        device="cpu",
        inline=True,
    )
    assert not learns_from_phantoms(context)
    assert len(list((home.cache / "weights").glob("phantom-*.safetensors"))) == 1
    for trial in find_study(home, "quickstart-phantom").get_trials():
        assert trial.user_attrs["hyperparameters"]["weights"] == "phantom"


def test_a_size_that_phantoms_do_not_have_is_refused(home: Home) -> None:
    with pytest.raises(InputError, match=r"28 to 512 px.*image_size_pixels is 16"):
        prepare_study(
            "quickstart",
            home=home,
            overrides=('weights="phantom"', "dataset.image_size_pixels=16"),
            device="cpu",
        )
