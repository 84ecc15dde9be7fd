"""Which class is the disease is told from whole words, or asked for."""

from pathlib import Path

import numpy as np
import pytest

from busi_search.data.classes import earlier_positive, infer_positive, is_no_class
from busi_search.data.describe import open_dataset
from busi_search.data.medmnist import load_medmnist
from busi_search.errors import InputError
from busi_search.search.prepare import prepare_study
from tests.data.layouts import picture


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Non-malignant", "malignant"), "malignant"),
        (("Nonmalignant", "Malignant"), "Malignant"),
        (("NotMalignant", "Malignant"), "Malignant"),
        (("malignant excluded", "malignant"), "malignant"),
        (("malignancy_free", "malignancy"), "malignancy"),
        (("normal or non-malignant", "malignant"), "malignant"),
        (("cancer", "normal", "benign"), "cancer"),
        (("non_cancer", "cancer"), "cancer"),
        (("unhealthy", "healthy"), "unhealthy"),
        (("benign tumor", "malignant tumor"), "malignant tumor"),
        (("malignant", "premalignant"), None),
        (("benign", "non-benign"), None),
        (("benign_or_malignant", "normal"), None),
        (("normal", "other"), None),
        (("benign", "unknown"), None),
        (("normal", "pneumonia"), None),
        (("class 0", "class 1"), None),
        (("no finding", "finding"), None),
    ],
)
def test_only_words_that_state_the_disease_count(
    names: tuple[str, ...], expected: str | None
) -> None:
    for order in (names, names[::-1]):
        found = infer_positive(order)
        assert (None if found is None else order[found]) == expected


def test_the_first_versions_rule_is_kept_for_its_studies() -> None:
    assert earlier_positive(("Non-malignant", "malignant")) == 0
    assert earlier_positive(("benign", "Malignant", "normal")) == 1
    assert earlier_positive(("cancer", "normal")) == 1


@pytest.mark.parametrize("name", ["images", "train images", "mask_gt", "fold 3", "testset", "val1"])
def test_names_of_parts_and_kinds(name: str) -> None:
    assert is_no_class(name)


@pytest.mark.parametrize("name", ["benign", "tester", "BUSI", "region", "training accident"])
def test_names_that_are_none(name: str) -> None:
    assert not is_no_class(name)


def write_archive(path: Path, *, first: int = 0, classes: int = 2) -> Path:
    rng = np.random.default_rng(0)
    arrays = {}
    for part, count in (("train", 60), ("val", 20), ("test", 20)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = first + np.arange(count, dtype=np.uint8) % classes
        arrays[f"{part}_labels"] = labels[:, None]
    np.savez(path, **arrays)
    return path


def test_another_organ_does_not_inherit_names(tmp_path: Path) -> None:
    lungs = write_archive(tmp_path / "pneumoniamnist.npz")
    with pytest.raises(InputError, match="which one is the disease"):
        load_medmnist(lungs)
    for study in ("breastmnist", None):
        with pytest.raises(InputError, match=r"not named as BreastMNIST's.*class_names"):
            prepare_study(study, data=str(lungs))
    for name in ("not_breastmnist.npz", "breastmnist_lungs.npz"):
        with pytest.raises(InputError, match="which one is the disease"):
            load_medmnist(write_archive(tmp_path / name))
    for name in ("breastmnist.npz", "BreastMNIST_128.npz", "breastmnist (1).npz"):
        found = load_medmnist(write_archive(tmp_path / name))
        assert found.class_names == ("malignant", "normal or benign")
    named = load_medmnist(lungs, ("normal", "pneumonia"), positive="pneumonia")
    assert named.positive == 1


@pytest.mark.parametrize(("first", "names"), [(1, None), (1, ("a", "b", "c")), (3, None)])
def test_labels_with_gaps_are_refused(
    first: int, names: tuple[str, ...] | None, tmp_path: Path
) -> None:
    path = write_archive(tmp_path / "one_based.npz", first=first)
    with pytest.raises(InputError, match=r"no image has the label 0.*0, 1, 2"):
        load_medmnist(path, names, positive=None if names is None else "b")


def test_archives_of_one_class_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least two classes"):
        load_medmnist(write_archive(tmp_path / "x.npz", classes=1))


@pytest.mark.parametrize("size", [28, 64, 128, 224])
def test_every_size_of_medmnist_is_read(size: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (4, size, size), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.array([[0], [1], [0], [1]], dtype=np.uint8)
    path = tmp_path / ("breastmnist.npz" if size == 28 else f"breastmnist_{size}.npz")
    np.savez(path, **arrays)
    found = load_medmnist(path)
    assert next(iter(found.images())).shape == (size, size)
    assert found.class_names[found.positive] == "malignant"


def test_who_only_looks_is_told_and_not_refused(tmp_path: Path) -> None:
    for seed, name in enumerate(("group a", "group b")):
        picture(tmp_path / name / "001.png", seed)
    assert any("which one is the disease" in note for note in open_dataset(str(tmp_path)).notes)


@pytest.mark.parametrize("study", ["busi", "breastmnist", None])
def test_what_is_not_there_is_said_first(study: str | None, tmp_path: Path) -> None:
    absent = tmp_path / "absent.zip"
    with pytest.raises(InputError, match=r"absent\.zip: no such file"):
        prepare_study(study, data=str(absent), weights="imagenet")
