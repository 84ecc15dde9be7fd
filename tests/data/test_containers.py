import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.containers import inspect_file, notes_of_file
from busi_search.data.file_notes import read_file_notes
from busi_search.data.groups import find_groups
from busi_search.data.image_cache import load_images
from busi_search.data.images import decode_for_model, decode_image
from busi_search.data.shortcuts import check_files
from busi_search.errors import InputError
from tests.data.layouts import picture, read


@pytest.fixture
def grey(rng: np.random.Generator) -> np.ndarray:
    found = rng.integers(0, 256, (40, 50), dtype=np.uint8)
    found[0, 0] = 255
    return found


def _png_16(path: Path, values: np.ndarray, colour_type: int) -> Path:
    """Write a PNG of 16 bits a channel, which Pillow can do for grey only."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + name
            + content
            + struct.pack(">I", zlib.crc32(name + content))
        )

    height, width = values.shape[:2]
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("shift", [0, 2, 4, 6, 8])
def test_deep_files_are_scaled_by_their_content(
    tmp_path: Path, grey: np.ndarray, suffix: str, shift: int
) -> None:
    path = tmp_path / f"a{suffix}"
    Image.fromarray(grey.astype(np.uint16) << shift).save(path)
    assert np.abs(decode_image(path).astype(int) - grey).max() <= 1


def test_deep_colour_and_transparency(tmp_path: Path, grey: np.ndarray) -> None:
    deep = grey.astype(np.uint16)
    full = np.full_like(deep, 65535)
    for name, channels, kind in (
        ("rgb", [deep] * 3, 2),
        ("rgba", [deep * 16] * 3 + [full], 6),
        ("grey and alpha", [deep * 16, full], 4),
    ):
        path = _png_16(tmp_path / f"{name}.png", np.dstack(channels), kind)
        assert np.abs(decode_image(path).astype(int) - grey).max() <= 1, name


def test_floats_and_inverted_greys(tmp_path: Path, grey: np.ndarray) -> None:
    shares = tmp_path / "shares.tif"
    Image.fromarray(grey.astype(np.float32) / 510).save(shares)
    # Half as bright stays half as bright: 1 is white, not the brightest pixel.
    assert decode_image(shares).max() == 128
    inverted = tmp_path / "inverted.tif"
    Image.fromarray(grey.astype(np.uint16) * 257).save(inverted, tiffinfo={262: 0})
    np.testing.assert_array_equal(decode_image(inverted), 255 - grey)
    for name in ("cmyk.jpg", "cmyk.tif"):
        Image.fromarray(grey).convert("CMYK").save(tmp_path / name, quality=100)
        assert np.abs(decode_image(tmp_path / name).astype(int) - grey).mean() < 2


def test_a_set_has_one_white(tmp_path: Path, grey: np.ndarray) -> None:
    """A dark image of a set stays dark, here and when the model is asked."""
    dark = grey.astype(np.uint16) // 2
    for k, name in enumerate(("benign", "malignant")):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.fromarray(np.roll(grey, k).astype(np.uint16) * 16).save(
            tmp_path / "set" / name / "bright.png"
        )
        Image.fromarray(np.roll(dark, k)).save(tmp_path / "set" / name / "dark.png")
    found = read(tmp_path / "set")
    assert found.white_level == 4095
    brightest = [int(image.max()) for image in found.images()]
    assert brightest == [254, 7, 254, 7]
    path = tmp_path / "set/benign/dark.png"
    assert decode_image(path).max() == 127
    with pytest.raises(InputError, match=r"dark\.png: the image is nearly black"):
        decode_for_model(path, white=4095)
    notes = " ".join(check_files(found, tmp_path / "cache"))
    assert "4095 is white" in notes
    assert "Nearly black: 2 images" in notes


def test_orientation_is_applied_and_told(tmp_path: Path, grey: np.ndarray) -> None:
    tag = Image.Exif()
    tag[0x0112] = 6
    for name in ("benign/a.jpg", "malignant/a.png"):
        path = tmp_path / name
        path.parent.mkdir()
        large = np.kron(grey, np.ones((4, 4), dtype=np.uint8))
        Image.fromarray(large).save(path, exif=tag, quality=100)
        assert np.abs(decode_image(path).astype(int) - np.rot90(large, -1)).mean() < 2
    picture(tmp_path / "benign/b.png", 1)
    notes = read_file_notes(read(tmp_path), tmp_path / "cache")
    assert "turned upright" in notes.texts[0]
    assert notes.decoding == "-upright"


def test_pages_that_are_left_out_are_told(tmp_path: Path, grey: np.ndarray) -> None:
    pages = [Image.fromarray(np.roll(grey, k)) for k in range(4)]
    for name in ("a.tif", "a.gif", "a.png"):
        path = tmp_path / "benign" / name
        path.parent.mkdir(exist_ok=True)
        pages[0].save(path, save_all=True, append_images=pages[1:])
        assert inspect_file(path).pages == 4
        assert notes_of_file(path) == ("The file has 4 pages or frames; the first was judged.",)
    picture(tmp_path / "malignant/1.png", 1)
    assert notes_of_file(tmp_path / "malignant/1.png") == ()
    (text,) = read_file_notes(read(tmp_path), tmp_path / "cache").texts
    assert "9 were left out" in text


def test_hidden_and_black_images_are_told_or_refused(tmp_path: Path, grey: np.ndarray) -> None:
    for k in range(3):
        picture(tmp_path / f"benign/{k}.png", k)
        picture(tmp_path / f"malignant/{k}.png", 9 + k)
    hidden = Image.fromarray(np.dstack([grey] * 3 + [np.zeros_like(grey)]))
    hidden.save(tmp_path / "benign/hidden.png")
    notes = " ".join(check_files(read(tmp_path), tmp_path / "cache"))
    assert "Nothing is left of 1 file, the first is 'benign/hidden.png'" in notes
    for k in range(3):
        Image.fromarray(grey // 50).save(tmp_path / f"malignant/{k}.png")
    with pytest.raises(InputError, match="class 'malignant' are nearly black"):
        check_files(read(tmp_path), tmp_path / "cache")


def test_caches_of_plain_sets_keep_their_names(tmp_path: Path) -> None:
    for name in ("benign", "malignant"):
        picture(tmp_path / "set" / name / "1.png", len(name))
    found = read(tmp_path / "set")
    load_images(found, 16, tmp_path / "cache")
    find_groups(found, "auto", tmp_path / "cache")
    assert (tmp_path / "cache/images" / f"{found.fingerprint}-16.npy").is_file()
    assert (tmp_path / "cache/groups" / f"{found.fingerprint}-v2.json").is_file()
