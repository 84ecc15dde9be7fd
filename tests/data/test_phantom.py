"""The simulated dataset: reproducible, truly labelled, and showing the signs it claims."""

from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from busi_search.data import phantom as phantom_module
from busi_search.data.phantom import Phantom, simulate_phantom, write_phantom
from busi_search.errors import InputError

BENIGN, MALIGNANT, NORMAL = range(3)


@cache
def simulated(num_images: int) -> Phantom:
    return simulate_phantom(num_images, size_pixels=64, seed=0)


@pytest.fixture
def phantom() -> Phantom:
    return simulated(300)


def assert_equal(left: Phantom, right: Phantom) -> None:
    for name in ("images", "masks", "labels", "groups"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))


def correlations(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Correlation (N, N) between 64-pixel images area-resized to 32×32."""
    small = images.reshape(len(images), 32, 2, 32, 2).mean(axis=(2, 4))
    return np.asarray(np.corrcoef(small.reshape(len(images), -1)))


def same_scene_pairs(groups: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Upper triangle (N, N): True where two different images show one scene."""
    return np.asarray(np.triu(groups[:, None] == groups, k=1))


def test_same_seed_gives_same_bytes_and_another_seed_does_not() -> None:
    first = simulate_phantom(30, size_pixels=32, seed=5)
    assert_equal(first, simulate_phantom(30, size_pixels=32, seed=5))
    assert not np.array_equal(first.images, simulate_phantom(30, size_pixels=32, seed=6).images)


def test_chunk_size_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = simulate_phantom(30, size_pixels=28, seed=1)
    monkeypatch.setattr(phantom_module, "_SAMPLES_PER_CHUNK", 256 * 128 * 7)
    assert_equal(whole, simulate_phantom(30, size_pixels=28, seed=1))


def test_every_size_shows_the_same_scenes() -> None:
    large = simulate_phantom(30, size_pixels=128, seed=2)
    small = simulate_phantom(30, size_pixels=32, seed=2)
    np.testing.assert_array_equal(large.labels, small.labels)
    shrunk = large.images.reshape(30, 32, 4, 32, 4).mean(axis=(2, 4))
    assert np.abs(shrunk - small.images).max() <= 2


def test_shapes_and_types(phantom: Phantom) -> None:
    assert phantom.images.shape == phantom.masks.shape == (300, 64, 64)
    assert phantom.labels.shape == phantom.groups.shape == (300,)
    assert phantom.images.dtype == np.uint8
    assert phantom.masks.dtype == np.bool_
    assert phantom.labels.dtype == phantom.groups.dtype == np.int64
    assert phantom.class_names == ("benign", "malignant", "normal")
    assert (phantom.images.std(axis=(1, 2)) > 10).all()


@pytest.mark.parametrize(
    ("num_images", "expected"), [(30, [17, 8, 5]), (100, [56, 27, 17]), (300, [168, 81, 51])]
)
def test_class_shares_are_those_of_busi(num_images: int, expected: list[int]) -> None:
    labels = simulated(num_images).labels
    assert np.bincount(labels, minlength=3).tolist() == expected


def test_a_tenth_of_the_images_has_a_twin(phantom: Phantom) -> None:
    _, sizes = np.unique(phantom.groups, return_counts=True)
    assert set(sizes.tolist()) == {1, 2, 3}
    assert sizes[sizes > 1].sum() == 30


def test_only_twins_look_alike(phantom: Phantom) -> None:
    alike = correlations(phantom.images)
    twins = same_scene_pairs(phantom.groups)
    assert alike[twins].min() > 0.95
    assert alike[twins].max() < 1.0
    assert alike[np.triu(~twins, k=1)].max() < 0.95


@pytest.mark.parametrize(("num_images", "num_conflicts"), [(30, 0), (100, 1), (300, 2)])
def test_about_one_percent_contradict_their_twin(num_images: int, num_conflicts: int) -> None:
    phantom = simulated(num_images)
    differ = phantom.labels[:, None] != phantom.labels
    assert (same_scene_pairs(phantom.groups) & differ).sum() == num_conflicts


def test_masks_are_empty_exactly_in_normal_images(phantom: Phantom) -> None:
    np.testing.assert_array_equal(phantom.masks.any(axis=(1, 2)), phantom.labels != NORMAL)


def test_malignant_lesions_are_taller_for_their_width(phantom: Phantom) -> None:
    aspect = np.full(len(phantom.labels), np.nan)
    for index in np.flatnonzero(phantom.labels != NORMAL):
        mask = phantom.masks[index]
        aspect[index] = mask.any(axis=1).sum() / mask.any(axis=0).sum()
    benign, malignant = (aspect[phantom.labels == label] for label in (BENIGN, MALIGNANT))
    assert malignant.mean() > benign.mean() + 0.2
    assert benign.mean() < 0.9
    assert malignant.min() < np.median(benign), "the classes must overlap"


def test_benign_lesions_enhance_and_malignant_ones_shadow(phantom: Phantom) -> None:
    excess = np.full(len(phantom.labels), np.nan)
    for index in np.flatnonzero(phantom.labels != NORMAL):
        rows, columns = np.nonzero(phantom.masks[index])
        behind = phantom.images[index, rows.max() + 2 : rows.max() + 14].mean(axis=0)
        under = np.zeros(64, np.bool_)
        under[columns.min() + 1 : columns.max()] = True
        if behind.size and not np.isnan(behind).any():
            excess[index] = behind[under].mean() - behind[~under].mean()
    benign, malignant = (excess[phantom.labels == label] for label in (BENIGN, MALIGNANT))
    assert np.nanmean(benign) > np.nanmean(malignant) + 15
    assert np.nanmean(benign) > 0 > np.nanmean(malignant)
    assert np.nanmin(benign) < np.nanmedian(malignant), "the classes must overlap"


def test_written_folder_is_laid_out_like_busi(tmp_path: Path) -> None:
    phantom = simulated(30)
    paths = write_phantom(tmp_path / "new", phantom)
    folder = tmp_path / "new" / "Dataset_BUSI_with_GT"
    assert [path.name for path in (tmp_path / "new").iterdir()] == [folder.name]
    for name, num_images in zip(phantom.class_names, (17, 8, 5), strict=True):
        expected = {
            f"{name} ({number}){suffix}.png"
            for number in range(1, num_images + 1)
            for suffix in ("", "_mask")
        }
        assert {path.name for path in (folder / name).iterdir()} == expected
    for index, path in enumerate(paths):
        assert path.parent.name == phantom.class_names[phantom.labels[index]]
        np.testing.assert_array_equal(np.asarray(Image.open(path)), phantom.images[index])
        mask = np.asarray(Image.open(path.with_name(f"{path.stem}_mask.png")))
        np.testing.assert_array_equal(mask, phantom.masks[index] * np.uint8(255))


def test_an_empty_target_is_used_and_a_full_one_refused(tmp_path: Path) -> None:
    phantom = simulated(30)
    (tmp_path / "Dataset_BUSI_with_GT").mkdir()
    paths = write_phantom(tmp_path, phantom)
    before = paths[0].read_bytes()
    with pytest.raises(InputError, match="not empty"):
        write_phantom(tmp_path, simulated(30))
    assert paths[0].read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError("disk full")

    phantom = simulated(30)
    monkeypatch.setattr(Image.Image, "save", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_phantom(tmp_path, phantom)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("num_images", "size_pixels", "seed", "named"),
    [
        (29, 64, 0, "num_images"),
        (300, 27, 0, "size_pixels"),
        (300, 513, 0, "size_pixels"),
        (300, 64, -1, "seed"),
    ],
)
def test_unusable_arguments_are_named(
    num_images: int, size_pixels: int, seed: int, named: str
) -> None:
    with pytest.raises(InputError, match=named):
        simulate_phantom(num_images, size_pixels=size_pixels, seed=seed)
