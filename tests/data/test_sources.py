import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.layouts.files import split_masks
from busi_search.data.medmnist import load_medmnist
from busi_search.data.sources import guess_study, load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection
from tests.data.layouts import read


def test_kaggle_layout_without_masks(busi_folder: Path) -> None:
    dataset = read(busi_folder)
    assert dataset.class_names == ("benign", "malignant", "normal")
    assert np.bincount(dataset.labels).tolist() == [14, 12, 11]
    assert not any("mask" in path for path in dataset.paths)
    assert dataset.paths[:3] == ("benign/benign (1).png", "benign/benign (2).png",
                                 "benign/benign (3).png")  # fmt: skip
    assert dataset.positive == 1
    assert next(iter(dataset.images())).shape == (48, 48)


def test_plain_class_folders_are_the_same_data(busi_folder: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(busi_folder / "Dataset_BUSI_with_GT", plain)
    (plain / "benign" / ".DS_Store").write_bytes(b"x")
    (plain / "notes.txt").write_text("x")
    assert read(plain).fingerprint == read(busi_folder).fingerprint


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("benign (1)_mask.png", True),
        ("benign (1)_mask_1.png", True),
        ("benign (1) mask.png", True),
        ("X_MASK.PNG", True),
        ("benign (1).png", False),
        ("unmasked.png", False),
        ("mask_of_zorro.png", False),
    ],
)
def test_a_mask_is_told_by_its_name(name: str, expected: bool) -> None:
    images, _ = split_masks([Path(name)])
    assert (images == []) == expected


def test_fingerprint_follows_pixels_names_and_labels(busi_folder: Path) -> None:
    before = read(busi_folder).fingerprint
    root = busi_folder / "Dataset_BUSI_with_GT"
    (root / "benign" / "benign (1).png").rename(root / "normal" / "benign (1).png")
    assert read(busi_folder).fingerprint != before


def test_folders_that_are_not_datasets(tmp_path: Path, busi_folder: Path) -> None:
    with pytest.raises(InputError, match="not a set of images"):
        read(Path(__file__))
    with pytest.raises(InputError, match="no such file or folder"):
        read(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="at least two"):
        read(tmp_path / "empty")
    broken = busi_folder / "Dataset_BUSI_with_GT" / "benign" / "benign (99).png"
    broken.write_bytes(b"")
    with pytest.raises(InputError, match=r"benign \(99\)\.png.*empty"):
        read(busi_folder)
    broken.unlink()
    outside = tmp_path / "secret.png"
    Image.new("L", (20, 20)).save(outside)
    broken.symlink_to(outside)
    with pytest.raises(InputError, match="link"):
        read(busi_folder)


def _npz(path: Path, **changes: object) -> Path:
    rng = np.random.default_rng(0)
    arrays: dict[str, object] = {}
    for part, count in (("train", 20), ("val", 6), ("test", 8)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    arrays.update(changes)
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    return path


def test_medmnist_keeps_the_official_split(tmp_path: Path) -> None:
    dataset = load_medmnist(_npz(tmp_path / "breastmnist.npz"))
    assert len(dataset) == 34
    assert dataset.class_names == ("malignant", "normal or benign")
    assert dataset.positive == 0
    assert dataset.official is not None
    assert [dataset.official.count(part) for part in ("train", "val", "test")] == [20, 6, 8]
    with np.load(tmp_path / "breastmnist.npz") as arrays:
        np.testing.assert_array_equal(list(dataset.images())[21], arrays["val_images"][1])


def test_medmnist_flat_labels_colour_and_large_images(tmp_path: Path) -> None:
    colour = np.full((20, 224, 224, 3), (10, 200, 30), dtype=np.uint8)
    flat = (np.arange(20) % 2).astype(np.int64)
    path = _npz(tmp_path / "a.npz", train_images=colour, train_labels=flat)
    image = next(iter(load_medmnist(path, ("benign", "malignant")).images()))
    assert image.shape == (224, 224)
    assert image[0, 0] == round(0.299 * 10 + 0.587 * 200 + 0.114 * 30)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_images": np.zeros((20, 28, 28), np.float32)}, "float32"),
        ({"train_images": np.zeros((20, 28), np.uint8)}, "shape"),
        ({"train_images": np.zeros((20, 8, 8), np.uint8)}, "28"),
        ({"train_images": np.zeros((19, 28, 28), np.uint8)}, "labels"),
        ({"train_labels": np.full(20, -1)}, "0 to 999"),
        ({"train_labels": np.linspace(0, 1, 20)}, "whole"),
        ({"train_labels": np.array([object()] * 20)}, "readable"),
        ({"test_images": None}, "test_images"),
    ],
)
def test_bad_archives(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        load_medmnist(_npz(tmp_path / "bad.npz", **changes))
    assert "bad.npz" in str(caught.value)


def test_archives_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with pytest.raises(InputError, match="no such file"):
        load_medmnist(path)
    for content in (b"", b"PK\x03\x04 nonsense", _npz(tmp_path / "y.npz").read_bytes()[:2000]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="readable"):
            load_medmnist(path)


def test_the_study_follows_from_the_data(busi_folder: Path, tmp_path: Path) -> None:
    assert guess_study(None, default_folder=tmp_path / "none") == ("quickstart", None)
    assert guess_study(None, default_folder=busi_folder) == ("busi", str(busi_folder))
    assert guess_study("a.npz") == ("breastmnist", "a.npz")
    assert guess_study(str(busi_folder)) == ("busi", str(busi_folder))
    with pytest.raises(InputError, match=r"x\.zip"):
        guess_study("x.zip")


def test_phantoms_are_marked_as_simulated() -> None:
    dataset = load_dataset(DatasetSection(source="phantom", phantom_num_images=60))
    assert dataset.simulated
    assert len(dataset) == 60
    subset = dataset.subset(np.array([5, 2]))
    expected = list(dataset.images())
    np.testing.assert_array_equal(next(iter(subset.images())), expected[5])


def test_a_study_without_its_data_says_so() -> None:
    with pytest.raises(InputError, match="--data"):
        load_dataset(DatasetSection(source="busi"))
