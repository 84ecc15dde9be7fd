from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data import images
from busi_search.data.images import decode_image, resize_image
from busi_search.errors import InputError


@pytest.fixture
def grey(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (20, 30), dtype=np.uint8)


def _save(tmp_path: Path, image: Image.Image, suffix: str = ".png", **options: object) -> Path:
    path = tmp_path / f"image{suffix}"
    image.save(path, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P"])
def test_modes_of_the_same_grey_image_decode_alike(
    tmp_path: Path, grey: np.ndarray, mode: str
) -> None:
    picture = Image.fromarray(grey)
    if mode == "P":
        picture = picture.quantize(256)
        assert picture.mode == "P"
        tolerance = 8
    else:
        picture, tolerance = picture.convert(mode), 1
    decoded = decode_image(_save(tmp_path, picture))
    assert decoded.dtype == np.uint8
    assert np.abs(decoded.astype(int) - grey).max() <= tolerance


def test_16_bit_is_scaled_by_its_range(tmp_path: Path, grey: np.ndarray) -> None:
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    np.testing.assert_array_equal(decode_image(_save(tmp_path, deep)), grey)


def test_16_bit_that_is_dark_stays_dark_where_white_is_known(tmp_path: Path) -> None:
    dark = Image.fromarray(np.full((16, 16), 2570, dtype=np.uint16))
    np.testing.assert_array_equal(decode_image(_save(tmp_path, dark), white=65535.0), 10)


def test_float_and_int_tiffs(tmp_path: Path, grey: np.ndarray) -> None:
    grey[0, 0] = 255
    float_image = Image.fromarray(grey.astype(np.float32) / 255)
    decoded = decode_image(_save(tmp_path, float_image, ".tiff"))
    assert np.abs(decoded.astype(int) - grey).max() <= 1
    integers = Image.fromarray(grey.astype(np.int32))
    np.testing.assert_array_equal(decode_image(_save(tmp_path, integers, ".tif")), grey)


def test_transparent_pixels_are_black_and_one_bit_is_grey(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (16, 16), (255, 255, 255, 0))
    assert decode_image(_save(tmp_path, clear)).max() == 0
    bits = Image.fromarray(np.eye(16, dtype=bool))
    assert set(np.unique(decode_image(_save(tmp_path, bits)))) == {0, 255}


def test_unusable_files_are_named(
    tmp_path: Path, grey: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = _save(tmp_path, Image.fromarray(grey)).read_bytes()
    cases = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "text": b"this is not an image",
        "corrupt": whole[:60] + bytes(40) + whole[100:],
    }
    for name, content in cases.items():
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        with pytest.raises(InputError, match=name) as caught:
            decode_image(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="too few"):
        decode_image(_save(tmp_path, Image.fromarray(grey[:4, :4])))
    monkeypatch.setattr(images, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="million"):
        decode_image(_save(tmp_path, Image.fromarray(grey)))


def test_resize_keeps_the_mean_and_is_antialiased(rng: np.random.Generator) -> None:
    fine = rng.integers(0, 256, (256, 192), dtype=np.uint8)
    small = resize_image(fine, 16)
    assert small.shape == (16, 16)
    assert abs(small.mean() - fine.mean()) < 2
    assert small.std() < fine.std() / 4
