"""Pictures that are no ultrasound are told from the training images; images like them are not."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from busi_search.data.colour import coloured_share
from busi_search.data.geometry import bring_to_size
from busi_search.data.images import decode_image
from busi_search.data.phantom import simulate_phantom
from busi_search.models.likeness import compare
from busi_search.models.out_of_distribution import (
    BRIGHTNESS,
    OutOfDistributionCheck,
    fit_out_of_distribution_check,
    image_statistics,
)

SIDE = 64


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A photograph, (H, W, 3) uint8."""
    return load_sample_image("china.jpg")


def no_ultrasound(rng: np.random.Generator, photo: np.ndarray) -> dict[str, np.ndarray]:
    rows, columns = np.mgrid[0:200, 0:260]
    bars = np.full((200, 260), 255)
    for index, height in enumerate(rng.integers(20, 180, 8)):
        bars[200 - height :, 10 + 30 * index : 30 + 30 * index] = 90
    text = np.full((200, 260), 255)
    text[rng.random((200, 260)) < 0.4] = 0
    text[(rows // 8) % 2 == 0] = 255
    return {
        "white": np.full((200, 260), 255),
        "grey": np.full((200, 260), 120),
        "gradient": rows + columns / 4,
        "radial gradient": np.hypot(rows - 100, columns - 130),
        "noise": rng.integers(0, 256, (200, 260)),
        "chart": bars,
        "text": text,
        "photo": photo.mean(axis=2),
    }


def seen(picture: np.ndarray) -> np.ndarray:
    return bring_to_size(np.clip(picture, 0, 255).astype(np.uint8), SIDE)


def test_models_of_earlier_versions_keep_their_check() -> None:
    """Five statistics, without a name of their kind, and one training image in a hundred."""
    images = simulate_phantom(60, size_pixels=SIDE, seed=0).images
    rows = image_statistics(images, BRIGHTNESS)
    stored = {
        "centre": rows.mean(axis=0).tolist(),
        "scale": rows.std(axis=0).tolist(),
        "precision": np.eye(5).tolist(),
        "limit": 4.0,
    }
    check = OutOfDistributionCheck.from_json(json.loads(json.dumps(stored)))
    assert (check.kind, check.share_beyond) == (BRIGHTNESS, 0.01)
    expected = np.linalg.norm((rows - rows.mean(axis=0)) / rows.std(axis=0), axis=1)
    np.testing.assert_allclose(check.distance(images), expected)
    assert OutOfDistributionCheck.from_json(check.to_json()) == check


def test_two_regions_and_small_images_are_compared_too() -> None:
    images = simulate_phantom(60, size_pixels=28, seed=0).images
    both = np.stack([images, images[:, ::-1]], axis=1)
    assert image_statistics(both).shape == (60, 20)
    check = fit_out_of_distribution_check(both, np.arange(60) // 2)
    assert np.isfinite(check.distance(both)).all()
    assert np.mean(check.distance(both) > check.limit) < 0.2


@pytest.fixture(scope="module")
def sets(real_data: Path) -> dict[str, np.ndarray]:
    """400 images of each of two real sets, as a model sees them."""
    folders = {
        "busi": real_data / "busi" / "Dataset_BUSI_with_GT",
        "BUSBRA": real_data / "BUSBRA" / "Images",
    }
    rng, found = np.random.default_rng(0), {}
    for name, folder in folders.items():
        paths = sorted(path for path in folder.rglob("*.png") if "mask" not in path.name)
        chosen = rng.permutation(len(paths))[:400]
        found[name] = np.stack([bring_to_size(decode_image(paths[i]), SIDE) for i in chosen])
    return found


@pytest.mark.parametrize("own", ["busi", "BUSBRA"])
def test_real_images_pass_and_others_do_not(
    own: str, sets: dict[str, np.ndarray], rng: np.random.Generator, photo: np.ndarray
) -> None:
    other = next(name for name in sets if name != own)
    check = fit_out_of_distribution_check(sets[own][:300])

    def share(images: np.ndarray) -> float:
        return float(np.mean(check.distance(images) > check.limit))

    # 5 of 100 are wanted; the standard error of a hundred images is 2.2.
    assert share(sets[own][300:]) < 0.15
    assert share(sets[other]) < 0.5
    # Lying on its side, an ultrasound image has the texture of none.
    assert share(sets[own].swapaxes(1, 2)) > 0.5
    passed = [
        name
        for name, picture in no_ultrasound(rng, photo).items()
        if share(seen(picture)[None]) == 0
    ]
    assert passed == []


def test_colours_of_their_own_are_told_from_tints(tmp_path: Path, photo: np.ndarray) -> None:
    grey = photo.mean(axis=2).astype(np.uint8)
    ramp = np.linspace(0, 1, 200)[:, None, None] * np.ones((1, 200, 1))
    pictures = {
        "photo": photo,
        "grey": grey,
        "grey as colour": np.dstack([grey] * 3),
        "sepia": (grey[..., None] * np.array([1.0, 0.85, 0.6])).astype(np.uint8),
        "hues": np.concatenate([ramp, 1 - ramp, ramp.swapaxes(0, 1)], axis=2) * 255,
    }
    found = {}
    for name, pixels in pictures.items():
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "a.png")
        found[name] = coloured_share(tmp_path / "a.png")
    assert found["photo"] > 0.1
    assert found["hues"] > 0.1
    assert found["grey"] == found["grey as colour"] == found["sepia"] == 0
    (said,) = compare(None, np.zeros((1, SIDE, SIDE), np.uint8), [found["photo"]])
    assert said.unlike is True
    assert said.text.startswith("This is a colour picture")
    Image.fromarray(photo).quantize(64).save(tmp_path / "palette.png")
    assert coloured_share(tmp_path / "palette.png") > 0.1
    Image.fromarray(photo).save(tmp_path / "a.jpg")
    assert coloured_share(tmp_path / "a.jpg") == pytest.approx(found["photo"], abs=0.1)
