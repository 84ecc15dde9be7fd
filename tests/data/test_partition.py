from pathlib import Path

import numpy as np
import pytest

from busi_search.data.dataset import ImageDataset
from busi_search.data.image_cache import load_images
from busi_search.data.partition import find_groups, make_partition
from busi_search.data.sources import load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection

SECTION = DatasetSection(source="phantom", phantom_num_images=120, num_folds=3)


@pytest.fixture(scope="module")
def dataset() -> ImageDataset:
    return load_dataset(SECTION)


def test_everyone_is_in_exactly_one_place(dataset: ImageDataset, tmp_path: Path) -> None:
    partition = make_partition(dataset, SECTION, seed=0, cache=tmp_path)
    parts = [partition.development, partition.test, partition.quarantined]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(len(dataset)))
    groups = partition.groups
    assert not set(groups[partition.development]) & set(groups[partition.test])
    assert len(partition.quarantined) == sum(map(len, partition.conflicts)) > 0
    for conflict in partition.conflicts:
        assert len(set(dataset.labels[list(conflict)])) > 1
    sound = np.concatenate([partition.development, partition.test])
    for group in np.unique(groups[sound]):
        assert len(set(dataset.labels[sound][groups[sound] == group])) == 1
    again = make_partition(dataset, SECTION, seed=0, cache=tmp_path)
    assert again.digest() == partition.digest()
    assert make_partition(dataset, SECTION, seed=1, cache=tmp_path).digest() != partition.digest()


def test_official_test_is_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    arrays = {}
    for part, count in (("train", 30), ("val", 8), ("test", 10)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 2
    arrays["test_images"][0] = arrays["train_images"][0]
    np.savez(tmp_path / "a.npz", **arrays)
    section = DatasetSection(
        source="medmnist",
        path=str(tmp_path / "a.npz"),
        class_names=("benign", "malignant"),
        test="official",
        num_folds=3,
    )
    partition = make_partition(load_dataset(section), section, seed=0, cache=tmp_path)
    np.testing.assert_array_equal(partition.test, np.arange(38, 48))
    assert partition.groups[38] == partition.groups[0]


def test_groups_from_a_csv(dataset: ImageDataset, tmp_path: Path) -> None:
    path = tmp_path / "groups.csv"
    rows = [f"{name},p{index // 3}" for index, name in enumerate(dataset.paths)]
    path.write_text("file,group\n" + "\n".join(rows))
    groups = find_groups(dataset, str(path), tmp_path)
    np.testing.assert_array_equal(groups, np.arange(120) // 3 * 3)
    for content, words in (
        ("a,b\n1,2\n", "columns"),
        ("file,group\nphantom/0,1\n", "no group for 119"),
        ("file,group\nphantom/0,1\nphantom/0,2\n", "two groups"),
        ("file,group\nphantom/0,\n", "without"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=words):
            find_groups(dataset, str(path), tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        find_groups(dataset, str(tmp_path / "absent.csv"), tmp_path)


def test_the_cache_is_shared_and_never_stale(dataset: ImageDataset, tmp_path: Path) -> None:
    first = load_images(dataset, 32, tmp_path)
    assert first.shape == (120, 32, 32)
    assert not first.flags.writeable
    (file,) = (tmp_path / "images").glob("*.npy")
    modified = file.stat().st_mtime_ns
    np.testing.assert_array_equal(load_images(dataset, 32, tmp_path), first)
    assert file.stat().st_mtime_ns == modified
    subset = dataset.subset(np.array([7, 3]))
    np.testing.assert_array_equal(load_images(subset, 32, tmp_path), first[[7, 3]])
    expected = np.array(first)
    file.write_bytes(file.read_bytes()[:1000])
    np.testing.assert_array_equal(load_images(dataset, 32, tmp_path), expected)
