from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.groups import DETECTOR_VERSION
from busi_search.data.image_lookup import ImageLookup
from busi_search.data.known_images import FINDER_VERSION, KnownImages, Membership, small_copy
from busi_search.data.medmnist import load_medmnist
from busi_search.home import Home, open_home
from tests.data.layouts import read
from tests.data.test_duplicates import jpeg, make_scan, resize

NUM_SCANS = 12
# The order in which the small copies stand; the last two are of no image of the folder.
SHRUNKEN = (7, 3, 11, 0, 5, 9, 100, 101)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Twelve scans as files of two classes, 0 to 5 and 6 to 11."""
    root = tmp_path_factory.mktemp("large")
    for index in range(NUM_SCANS):
        place = root / ("benign" if index < 6 else "malignant")
        place.mkdir(exist_ok=True)
        Image.fromarray(make_scan(index + 1)).save(place / f"{index:02d}.png")
    return read(root)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Six of them, and two others, at 28 px and in another order."""
    small = np.stack([resize(make_scan(index + 1), 28, 28) for index in SHRUNKEN])
    labels = np.array([[0], [1]] * 4)
    parts = {"train": slice(0, 4), "val": slice(4, 6), "test": slice(6, 8)}
    path = tmp_path_factory.mktemp("small") / "copies.npz"
    arrays = {f"{name}_images": small[part] for name, part in parts.items()}
    np.savez(path, **arrays, **{f"{name}_labels": labels[part] for name, part in parts.items()})
    return load_medmnist(path, ("benign", "malignant"))


@pytest.fixture
def plain_home(tmp_path: Path) -> Home:
    return open_home(tmp_path / "home")


def member(dataset: ImageDataset, study: str, seal: set[int]) -> Membership:
    development = tuple(i for i in range(len(dataset)) if i not in seal)
    seed = "-".join(map(str, sorted(seal)))
    return Membership(study, f"p{seed}", dataset.fingerprint, development, tuple(sorted(seal)))


def test_sealed_images_that_others_developed_on_are_known_at_another_size(
    plain_home: Home, folder: ImageDataset, archive: ImageDataset
) -> None:
    known = KnownImages(plain_home)
    known.add_images(folder)
    large = member(folder, "large", {0, 1, 2, 3, 4})
    known.add(large)
    assert KnownImages(plain_home).developed_elsewhere(large) == {}
    second = KnownImages(plain_home)
    second.add_images(archive)
    # Of the copies of 7, 3, 0 and of a new scan, only 7 was developed on; 0 and 3 are sealed.
    small = member(archive, "small", {0, 1, 3, 6})
    assert second.developed_elsewhere(small) == {0: ("large",)}
    second.add(small)
    # Later, the study of small copies has developed on the copy of nothing that is sealed there …
    assert KnownImages(plain_home).developed_elsewhere(large) == {}
    # … but one with another seed has.
    KnownImages(plain_home).add(member(archive, "reseeded", {0, 6}))
    assert KnownImages(plain_home).developed_elsewhere(large) == {
        0: ("reseeded",),
        3: ("reseeded",),
    }
    assert KnownImages(plain_home).developed_elsewhere(small) == {
        0: ("large",),
        1: ("reseeded",),
        3: ("reseeded",),
    }


def test_another_name_and_seed_on_the_same_images_are_known(
    plain_home: Home, folder: ImageDataset
) -> None:
    known = KnownImages(plain_home)
    known.add_images(folder)
    known.add(member(folder, "first", {0, 1}))
    same_division = member(folder, "renamed", {0, 1})
    assert known.developed_elsewhere(same_division) == {}
    assert known.scans_of(folder.fingerprint, (0, 1)) == known.scans_of(folder.fingerprint, (1, 0))
    assert known.developed_elsewhere(member(folder, "reseeded", {1, 2, 3})) == {
        2: ("first",),
        3: ("first",),
    }


def test_what_cannot_be_read_is_left_out(plain_home: Home, folder: ImageDataset) -> None:
    known = KnownImages(plain_home)
    assert not known.exists
    known.add_images(folder)
    known.add(member(folder, "first", {0}))
    known.add(member(folder, "gone", {1}))
    studies = plain_home.root / "known_images" / "studies"
    (studies / member(folder, "gone", {1}).file_name).write_text("{}")
    (studies / "broken.json").write_bytes(b"\xff")
    again = KnownImages(plain_home)
    assert [found.study for found in again.memberships] == ["first"]
    assert len(again.state) == 3
    (plain_home.root / "known_images" / f"{folder.fingerprint}.npz").write_bytes(b"PK")
    assert KnownImages(plain_home).developed_elsewhere(member(folder, "x", {2, 3})) == {}


def test_the_lookup_finds_copies_of_any_size_and_no_others() -> None:
    known = [make_scan(seed) for seed in range(1, 7)]
    flat = np.full((200, 300), 7, np.uint8)
    lookup = ImageLookup([*known, flat])
    wide = resize(known[1], 400, 330)
    asked = [known[0], jpeg(wide, 80), resize(known[2], 28, 28), known[3][12:, :-24]]
    asked += [make_scan(77), flat]
    assert lookup.find(asked) == [[0], [1], [2], [3], [], [6]]
    assert lookup.find([]) == []
    assert ImageLookup([]).find(asked[:1]) == [[]]
    # A crop is known by its whole as well.
    assert ImageLookup([asked[3]]).find([known[3], known[0]]) == [[0], []]


def test_a_small_copy_keeps_what_is_small() -> None:
    image = make_scan(1, (90, 300))
    assert small_copy(image).shape == (90, 128)
    assert small_copy(image[:, :100]).shape == (90, 100)
    np.testing.assert_array_equal(small_copy(image[:, :100]), image[:, :100])


def test_twins_are_sought_anew_when_the_finder_changes() -> None:
    assert FINDER_VERSION == DETECTOR_VERSION
