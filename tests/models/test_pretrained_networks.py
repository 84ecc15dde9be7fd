"""Networks with foreign weights or from timm, from the search to every form they leave it in."""

import json
from pathlib import Path

import numpy as np
import pytest

from busi_search.data.phantom import simulate_phantom, write_phantom
from tests.command import call_here

STUDY = """
[study]
objective = "cv_auc"
sampler = "random"
pruner = "none"
[dataset]
source = "busi"
path = "data"
image_size_pixels = 32
num_folds = 2
test = 0.2
[hyperparameters]
epochs = 1
batch_size = 8
augmentation_strength = 0.5
"""
LITE = 'architecture = "efficientnet_lite0"\nweights = "imagenet"\n'
CASES = {
    "partly-frozen": f"{STUDY}{LITE}freeze_depth = 3\naugmentation_views = 2\n",
    "timm": f'{STUDY}[space]\narchitecture = ["timm/test_vit"]\n',
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=pytest.mark.exhaustive) if c == "timm" else c for c in CASES],
)
def test_a_search_replays_predicts_and_exports(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    phantom = simulate_phantom(60, size_pixels=48, seed=5)
    files = write_phantom(tmp_path / "data", phantom)
    (tmp_path / "study.toml").write_text(CASES[case])

    def typed(*words: str) -> dict[str, object]:
        answer = call_here(*words, "--json")
        assert answer.returncode == 0, f"{words}: {answer.stderr}"
        found = json.loads(answer.stdout)
        assert isinstance(found, dict)
        return found

    result = typed("run", "study.toml", "--name", case, "--trials", "1", "--workers", "1",
                   "--device", "cpu")  # fmt: skip
    best = result["best"]
    assert isinstance(best, dict)
    assert 0 <= best["cv_auc"] <= 1
    replayed = typed("replay", case, "0")
    assert replayed["agrees"] is True
    image = str(next(file for file in files if "mask" not in file.name))
    uri = "models:/busi-classifier@candidate"
    predictions = typed("predict", image, "--model-uri", uri)["predictions"]
    assert isinstance(predictions, list)
    assert sum(predictions[0]["probabilities"].values()) == pytest.approx(1)
    # The export is refused unless it answers as the model does.
    answer = call_here("export", case, "--to", "model.onnx")
    assert answer.returncode == 0, answer.stderr
    features = list((tmp_path / "mlruns/cache/features").glob("*.npy"))
    shapes = {np.load(file, mmap_mode="r").shape[2:] for file in features}
    assert shapes == {"partly-frozen": {(40, 4, 4)}, "timm": set()}[case]
