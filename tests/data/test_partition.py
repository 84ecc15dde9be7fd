from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from busi_search.data import groups
from busi_search.data import partition as partitions
from busi_search.data.dataset import ImageDataset
from busi_search.data.groups import find_groups
from busi_search.data.image_cache import load_images
from busi_search.data.partition import make_partition
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


def official_file(folder: Path, rng: np.random.Generator) -> DatasetSection:
    """38 images of an official development part, 10 of its test; images 0 and 38 are the same."""
    arrays = {}
    for part, count in (("train", 30), ("val", 8), ("test", 10)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(count, dtype=np.uint8) % 2
    arrays["test_images"][0] = arrays["train_images"][0]
    np.savez(folder / "a.npz", **arrays)
    return DatasetSection(
        source="medmnist",
        path=str(folder / "a.npz"),
        class_names=("benign", "malignant"),
        test="official",
        num_folds=3,
    )


def test_official_test_is_kept(tmp_path: Path, rng: np.random.Generator) -> None:
    section = official_file(tmp_path, rng)
    partition = make_partition(load_dataset(section), section, seed=0, cache=tmp_path)
    np.testing.assert_array_equal(partition.test, np.arange(38, 48))
    assert partition.groups[38] == partition.groups[0]
    assert partition.counts()["num_test_quarantined"] == 0


def test_contradictory_twins_leave_an_official_test(
    tmp_path: Path, rng: np.random.Generator
) -> None:
    section = official_file(tmp_path, rng)
    dataset = load_dataset(section)
    labels = dataset.labels.copy()
    labels[38] = 1 - labels[0]
    dataset = replace(dataset, labels=labels)
    partition = make_partition(dataset, section, seed=0, cache=tmp_path)
    assert partition.conflicts == ((0, 38),)
    np.testing.assert_array_equal(partition.test, np.arange(39, 48))
    np.testing.assert_array_equal(partition.development, np.arange(1, 38))
    assert partition.left_out_of_test.tolist() == [38]
    assert partition.counts()["num_test_quarantined"] == 1
    # A study that an earlier version divided keeps its test, and nothing else differs.
    before = partitions._divide(dataset, section, 0, tmp_path, partitions.DETECTOR_VERSION, 1)
    np.testing.assert_array_equal(before.test, np.arange(38, 48))
    again = make_partition(dataset, section, seed=0, cache=tmp_path, began_with=before.digest())
    np.testing.assert_array_equal(again.test, before.test)
    np.testing.assert_array_equal(again.development, partition.development)
    assert "official test images stayed" in again.earlier
    assert partition.earlier == ""


def write_groups(path: Path, dataset: ImageDataset, named: Sequence[str]) -> str:
    rows = [f"{name},{group}" for name, group in zip(dataset.paths, named, strict=True)]
    path.write_text("file,group\n" + "\n".join(rows))
    return str(path)


def test_groups_from_a_csv_are_united_with_twins(dataset: ImageDataset, tmp_path: Path) -> None:
    twins = find_groups(dataset, "auto", tmp_path).twins
    path = tmp_path / "groups.csv"
    rule = write_groups(path, dataset, [f"p{index // 3}" for index in range(120)])
    grouping = find_groups(dataset, rule, tmp_path)
    np.testing.assert_array_equal(grouping.twins, twins)
    np.testing.assert_array_equal(grouping.known, np.arange(120) // 3 * 3)
    # Another way to the same components: merge until nothing changes.
    expected = np.arange(120)
    for _ in range(120):
        for link in (twins, np.arange(120) // 3):
            for group in np.unique(link):
                expected[link == group] = expected[link == group].min()
    np.testing.assert_array_equal(grouping.united, expected)
    across = [g for g in np.unique(twins) if len({i // 3 for i in np.flatnonzero(twins == g)}) > 1]
    assert grouping.across.tolist() == across != []
    assert grouping.num_known == 40
    assert f"40 known from groups.csv, united with {grouping.num_twins}" in str(grouping)
    assert "new patients from this source" in grouping.scope
    assert "Patients are not known" in find_groups(dataset, "auto", tmp_path).scope
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


def test_known_groups_neither_hide_nor_widen_a_contradiction(
    dataset: ImageDataset, tmp_path: Path
) -> None:
    alone = make_partition(dataset, SECTION, seed=0, cache=tmp_path)
    # Every patient has an image of each of three neighbours, whatever their classes.
    rule = write_groups(tmp_path / "g.csv", dataset, [f"p{index // 3}" for index in range(120)])
    section = SECTION.model_copy(update={"groups": rule})
    partition = make_partition(dataset, section, seed=0, cache=tmp_path)
    assert partition.conflicts == alone.conflicts != ()
    np.testing.assert_array_equal(partition.quarantined, alone.quarantined)
    sound = np.setdiff1d(np.arange(120), alone.quarantined)
    np.testing.assert_array_equal(np.union1d(partition.development, partition.test), sound)
    for link in (partition.grouping.twins, np.arange(120) // 3):
        assert not set(link[partition.test]) & set(link[partition.development])
        for fold in partition.folds:
            inside = link[partition.development]
            assert not set(inside[fold.train]) & set(inside[fold.validation])
    assert partition.counts()["num_known_groups"] == 40
    # A study that began when a file took the place of the twins goes on so, and says it.
    before = partitions._divide(dataset, section, 0, tmp_path, partitions.DETECTOR_VERSION, 1)
    assert before.digest() != partition.digest()
    assert before.quarantined.size == 0
    again = make_partition(dataset, section, seed=0, cache=tmp_path, began_with=before.digest())
    assert again.digest() == before.digest()
    assert "not looked for beside the file of groups" in again.earlier


def test_twins_that_an_earlier_detector_found_are_used_again(
    dataset: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = make_partition(dataset, SECTION, seed=0, cache=tmp_path)
    monkeypatch.setattr(partitions, "DETECTOR_VERSION", 7)
    monkeypatch.setattr(groups, "DETECTOR_VERSION", 7)
    monkeypatch.setattr(groups, "find_duplicates", lambda images: np.arange(len(images)))
    assert make_partition(dataset, SECTION, seed=0, cache=tmp_path).digest() != began.digest()
    digest = began.digest()
    again = make_partition(dataset, SECTION, seed=0, cache=tmp_path, began_with=digest)
    assert again.digest() == digest
    assert again.earlier == "near-duplicates were found by an earlier method"
    # Without the cache they cannot be had: who asks sees another digest.
    fresh = make_partition(dataset, SECTION, seed=0, cache=tmp_path / "new", began_with=digest)
    assert fresh.digest() != digest


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
