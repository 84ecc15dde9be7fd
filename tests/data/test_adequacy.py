"""Data too little for a study's figures are refused before anything is trained."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.adequacy import check_division, few_test_images_warning
from busi_search.data.folds import make_folds
from busi_search.data.partition import make_partition
from busi_search.data.sources import load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection
from tests.conftest import smooth_image


def _prepare(root: Path, counts: dict[str, int], **settings: object) -> str | None:
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            Image.fromarray(smooth_image(rng)).save(root / name / f"{k:02d}.png")
    first = next(iter(counts))
    section = DatasetSection.model_validate(
        {"source": "busi", "path": str(root), "positive": first, **settings}
    )
    dataset = load_dataset(section)
    partition = make_partition(dataset, section, seed=0, cache=root.parent / "cache")
    check_division(dataset, partition)
    return few_test_images_warning(dataset, partition)


def test_many_classes_of_three_are_refused(tmp_path: Path) -> None:
    counts = {f"c{k:02d}": 3 for k in range(12)}
    with pytest.raises(InputError, match=r"The sealed test would hold 1 group.*'c00' \(of 3 im"):
        _prepare(tmp_path / "set", counts, num_folds=2)


def test_one_test_image_of_the_disease_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"1 group of images of class 'malignant'"):
        _prepare(tmp_path / "set", {"malignant": 5, "benign": 30}, num_folds=2)


def test_a_score_that_could_not_be_corrected_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"No fold holds two groups.*'malignant'"):
        _prepare(tmp_path / "set", {"malignant": 8, "benign": 30}, num_folds=6)


def test_enough_passes_and_few_are_said(tmp_path: Path) -> None:
    warning = _prepare(tmp_path / "set", {"malignant": 14, "benign": 20}, num_folds=3)
    assert warning is not None
    assert "3 of 'malignant'" in warning


def test_a_class_is_called_by_its_name() -> None:
    labels = np.array([0] * 8 + [1] * 2)
    with pytest.raises(InputError, match=r"Class 'malignant' has 2 group"):
        make_folds(labels, np.arange(10), num_folds=5, seed=0, class_names=("benign", "malignant"))
