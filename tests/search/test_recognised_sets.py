"""A study's images are recognised, its classes are said, and old studies open as they began."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.home import Home
from busi_search.search.prepare import prepare_study
from busi_search.search.reopen import reopen_study
from busi_search.search.store.open import find_study
from tests.command import call_here
from tests.conftest import smooth_image
from tests.data import layouts

QUICK = """
[study]
startup_trials = 1
[dataset]
source = "auto"
image_size_pixels = 28
num_folds = 2
[hyperparameters]
architecture = "small_cnn"
epochs = 1
"""


def _folder(root: Path, names: tuple[str, ...]) -> Path:
    rng = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for k in range(14):
            Image.fromarray(smooth_image(rng)).save(root / name / f"{k}.png")
    return root


def test_auto_is_recognised_and_said(home: Home, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "set", ("benign", "malignant"))
    study = tmp_path / "mine.toml"
    study.write_text(f'[dataset]\nsource = "auto"\npath = "{folder}"\nnum_folds = 2\n')
    context = prepare_study(str(study), home=home, overrides=("weights='none'",))
    assert context.spec.dataset.source == "busi"
    assert "recognised as a folder of class folders (busi)" in context.remarks[0]
    assert context.class_counts == {"benign": 14, "malignant": 14}
    layouts.busbra(tmp_path / "BUSBRA")
    study.write_text('[dataset]\nsource = "auto"\nnum_folds = 2\n')
    with pytest.raises(Exception, match="sealed test would hold"):
        prepare_study(
            str(study), data=str(tmp_path / "BUSBRA"), home=home, overrides=("weights='none'",)
        )


@pytest.mark.slow
def test_an_old_study_opens_with_the_class_it_began_with(home: Home, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "set", ("a", "b"))
    (tmp_path / "quick.toml").write_text(QUICK)
    answer = _run(home, tmp_path)
    assert answer.returncode == 2
    assert "which one is the disease" in answer.stderr
    answer = _run(home, tmp_path, "--set", 'dataset.positive="b"')
    assert answer.returncode == 0, answer.stderr
    assert "Classes: a 14, b 14" in answer.stderr
    assert "refer to 'b'" in answer.stderr
    assert "recognised as a folder of class folders (busi)" in answer.stderr
    study = find_study(home, "old")
    # As the first version kept it: no class stated, none noted.
    identity = dict(study.user_attrs["identity"])
    spec = json.loads(identity["spec"])
    spec["dataset"]["positive"] = None
    study.set_user_attr("identity", {**identity, "spec": json.dumps(spec, sort_keys=True)})
    study.set_user_attr("positive", None)
    again = reopen_study(find_study(home, "old"), home=home)
    assert again.development.class_names[again.development.positive] == "b"
    assert any("treated 'b' as the disease" in sentence for sentence in again.remarks)
    # Without a word, and with the class that it has anyway, it goes on; with another it does not.
    for more in ((), ("--set", 'dataset.positive="b"')):
        answer = _run(home, tmp_path, *more)
        assert answer.returncode == 0, answer.stderr
        assert json.loads(answer.stdout)["trials"]["complete"] == 1
    answer = _run(home, tmp_path, "--set", 'dataset.positive="a"')
    assert answer.returncode == 2
    assert "dataset.positive" in answer.stderr
    assert folder.is_dir()


def _run(home: Home, folder: Path, *more: str):
    return call_here("--home", home.root, "run", folder / "quick.toml", "--data", folder / "set",
                     "--name", "old", "--trials", 1, "--workers", 1, "--device", "cpu",
                     "--json", *more)  # fmt: skip
