"""Thousands of bad inputs: each is used, or refused with one sentence and exit code 2.

``BUSI_SEARCH_FUZZ=2000`` sets the number of examples per test (default 40).
"""

import csv
import functools
import io
import os
import pickle
import struct
import tempfile
import time
import tomllib
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.groups import find_groups
from busi_search.data.images import decode_image
from busi_search.data.medmnist import load_medmnist
from busi_search.data.partition import make_partition
from busi_search.data.sources import guess_study, load_dataset
from busi_search.errors import InputError
from busi_search.models.asked_files import find_images
from busi_search.spec import (
    DatasetSection,
    Hyperparameters,
    StudySection,
    StudySpec,
)
from busi_search.study_files import bundled_studies, list_bundled, load_spec, parse_spec
from busi_search.training.weights import check_weights
from tests.command import call_here
from tests.conftest import smooth_image
from tests.data.layouts import read

T = TypeVar("T")

MANY = settings(
    max_examples=int(os.environ.get("BUSI_SEARCH_FUZZ", "40")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
QUICKSTART = (bundled_studies() / "quickstart.toml").read_bytes()


def used_or_refused(action: Callable[[], T]) -> T | None:
    """Return what an action gives, or None where it refuses its input with one sentence."""
    started = time.monotonic()
    refusal, result = None, None
    try:
        result = action()
    except InputError as error:
        refusal = str(error)
    assert refusal is None or 0 < len(refusal) < 6000
    assert time.monotonic() - started < 60
    return result


@st.composite
def damaged(draw: st.DrawFn, originals: list[bytes]) -> bytes:
    """Valid bytes, cut, overwritten, doubled or padded somewhere."""
    content = bytearray(draw(st.sampled_from(originals)))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(("cut", "overwrite", "insert", "double", "zero")))
        noise = draw(st.binary(max_size=12))
        if kind == "cut":
            del content[start : start + draw(st.integers(1, 64))]
        elif kind == "overwrite":
            content[start : start + len(noise)] = noise
        elif kind == "insert":
            content[start:start] = noise
        elif kind == "double":
            content[start:start] = content[: draw(st.integers(0, 64))]
        else:
            content[start : start + 8] = bytes(8)
    return bytes(content)


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
    st.sampled_from(("tpe", "cv_auc", "busi", "phantom", "resnet18", "none", "~x", "\0",
                     "a" * 300)),
)  # fmt: skip
keys = st.one_of(
    st.sampled_from(
        (*Hyperparameters.model_fields, *StudySection.model_fields, *DatasetSection.model_fields,
         "low", "high", "log", "step", "choices", "only_if", "name")
    ),
    st.text(max_size=5),
)  # fmt: skip
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=8,
)
sections = st.sampled_from(("study", "dataset", "hyperparameters", "space", "recipe", "gate"))


@MANY
@given(changes=st.lists(st.tuples(sections, keys, values), max_size=3), whole=st.booleans())
def test_study_files_with_any_values(changes: list[tuple[str, str, Any]], whole: bool) -> None:
    raw = tomllib.loads(QUICKSTART.decode())
    for section, key, value in changes:
        if whole or not isinstance(raw.get(section), dict):
            raw[section] = value
        else:
            raw[section][key] = value
    spec = used_or_refused(lambda: parse_spec(raw, origin="study.toml"))
    assert spec is None or isinstance(spec, StudySpec)


@MANY
@given(content=st.one_of(st.binary(max_size=200), damaged([QUICKSTART])))
def test_study_files_of_any_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "study.toml"
        path.write_bytes(content)
        used_or_refused(lambda: load_spec(str(path)))


@MANY
@given(key=keys, section=st.one_of(st.just(""), sections, st.text(max_size=4)), value=st.one_of(
    st.text(max_size=12), st.integers().map(str), st.floats().map(str),
    st.sampled_from(("[1,2]", "{low=1,high=2}", "{", "'x'", "[]", "{a=1}", "2024-01-01", "nan")),
))  # fmt: skip
def test_overrides(key: str, section: str, value: str) -> None:
    written = f"{section}.{key}={value}" if section else f"{key}={value}"
    used_or_refused(lambda: load_spec("quickstart", (written,)))


@MANY
@given(name=st.one_of(st.text(max_size=30), st.sampled_from(
    ("~nobody-of-that-name", "a" * 400, "/" * 5000, "\0", "../../etc/passwd", "/dev/zero", "", ".")
)))  # fmt: skip
def test_names_and_paths(name: str) -> None:
    used_or_refused(lambda: load_spec(name))
    used_or_refused(lambda: guess_study(name))
    used_or_refused(lambda: check_weights(name, "resnet18") if name != "imagenet" else None)
    for source in ("busi", "medmnist"):
        used_or_refused(lambda s=source: load_dataset(DatasetSection(source=s, path=name)))
    if not _exists(name):
        used_or_refused(lambda: find_images([name]))


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def _encoded(kind: str, mode: str = "L", **options: Any) -> bytes:
    stream = io.BytesIO()
    pixels = smooth_image(np.random.default_rng(0), 24)
    Image.fromarray(pixels).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


IMAGES = [
    _encoded("PNG"), _encoded("PNG", "RGBA"), _encoded("PNG", "P"), _encoded("PNG", "I;16"),
    _encoded("JPEG"), _encoded("JPEG", "RGB", progressive=True), _encoded("BMP"),
    _encoded("GIF"), _encoded("TIFF"), _encoded("TIFF", "RGB", compression="tiff_lzw"),
    _encoded("TIFF", "F"), _encoded("WEBP", "RGB"),
]  # fmt: skip


@MANY
@given(content=st.one_of(damaged(IMAGES), st.binary(max_size=100)))
def test_image_files(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.png"
        path.write_bytes(content)
        pixels = used_or_refused(lambda: decode_image(path))
        assert pixels is None or (pixels.ndim == 2 and pixels.dtype == np.uint8)


def _png(width: int, height: int, data: bytes, extra: bytes = b"") -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )  # fmt: skip


def test_decompression_bombs_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    text = b"a\0\0" + zlib.compress(bytes(200_000_000), 9)
    chunk = (
        struct.pack(">I", len(text))
        + b"zTXt"
        + text
        + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    )
    bombs = {
        "wide.png": _png(2**31 - 1, 2**31 - 1, b""),
        "large.png": _png(30_000, 30_000, bytes(1000)),
        "text.png": _png(24, 24, bytes(25 * 24), chunk),
        "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\nshowpage\n",
    }
    for name, content in bombs.items():
        (tmp_path / name).write_bytes(content)
        started = time.monotonic()
        if name != "text.png":
            with pytest.raises(InputError, match=name):
                decode_image(tmp_path / name)
        else:
            used_or_refused(lambda: decode_image(tmp_path / "text.png"))
        assert time.monotonic() - started < 60


@MANY
@given(
    names=st.lists(
        st.one_of(
            st.sampled_from(("a.png", "b (1).PNG", "ü.png", "c\n.png", "d\x1b[31m.png", ".e.png",
                             "f_mask.png", "g.txt", " .png", "\udcff.png", "x" * 200 + ".png")),
            st.text("abc. _-()é\t", min_size=1, max_size=8).map(lambda s: f"{s}.png"),
        ),
        min_size=1, max_size=5, unique=True,
    ),
    kind=st.sampled_from(("image", "empty", "damaged", "link out", "dangling", "folder", "fifo")),
)  # fmt: skip
def test_image_folders(names: list[str], kind: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, outside = Path(folder) / "data", Path(folder) / "outside.png"
        outside.write_bytes(IMAGES[0])
        for label in ("benign", "malignant"):
            (root / label).mkdir(parents=True)
            (root / label / "sound.png").write_bytes(IMAGES[0])
        for name in names:
            path = root / "benign" / name
            try:
                _make(path, kind, outside)
            except FileExistsError:
                continue
        dataset = used_or_refused(lambda: read(root))
        if dataset is not None:
            assert all("outside" not in path for path in dataset.paths)
            images = used_or_refused(lambda: list(dataset.images()))
            assert kind not in ("link out", "dangling") or images is None or _hidden(names)
        used_or_refused(lambda: [decode_image(path) for path in find_images([root])])


def _make(path: Path, kind: str, outside: Path) -> None:
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind in ("link out", "dangling"):
        path.symlink_to(outside if kind == "link out" else outside.with_name("nothing"))
    else:
        content = {"image": IMAGES[0], "empty": b"", "damaged": IMAGES[0][:60]}[kind]
        path.write_bytes(content)


def _hidden(names: list[str]) -> bool:
    """Whether none of these is looked at at all: hidden, a mask, or no image."""
    return all(n.startswith(".") or "mask" in n or not n.lower().endswith(".png") for n in names)


def _npz(**changes: Any) -> bytes:
    rng = np.random.default_rng(0)
    arrays: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        arrays[f"{part}_images"] = rng.integers(0, 256, (6, 28, 28), dtype=np.uint8)
        arrays[f"{part}_labels"] = np.arange(6).reshape(-1, 1) % 2
    arrays.update(changes)
    stream = io.BytesIO()
    np.savez(stream, **{key: value for key, value in arrays.items() if value is not None})
    return stream.getvalue()


dtypes = st.sampled_from(("u1", "i8", "f4", "f8", "U3", "?", "c16", "M8[s]", "O"))
shapes = st.lists(st.integers(0, 40), max_size=5).filter(lambda s: np.prod(s, dtype=float) < 1e5)


@MANY
@given(
    key=st.sampled_from(
        [f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("images", "labels")]
    ),
    dtype=dtypes, shape=shapes, removed=st.booleans(),
)  # fmt: skip
def test_npz_files_of_any_shape_and_type(
    key: str, dtype: str, shape: list[int], removed: bool
) -> None:
    value = None if removed else np.zeros(shape, dtype=dtype)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(_npz(**{key: value}))
        dataset = used_or_refused(lambda: load_medmnist(path))
        if dataset is not None:
            assert len(list(dataset.images())) == len(dataset)
            section = DatasetSection(source="medmnist", num_folds=2, test="official")
            used_or_refused(
                lambda: make_partition(dataset, section, seed=0, cache=Path(folder) / "cache")
            )


@MANY
@given(content=st.one_of(damaged([_npz()]), st.binary(max_size=60)))
def test_npz_files_of_any_bytes(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.npz"
        path.write_bytes(content)
        used_or_refused(lambda: load_medmnist(path))


class _Trap:
    """Pickled, it would leave a file behind when it is opened."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (self._path, "w"))


def test_archives_that_attack_are_refused(tmp_path: Path) -> None:
    trap, path = tmp_path / "sprung", tmp_path / "a.npz"
    path.write_bytes(_npz(train_images=np.array([_Trap(trap)], dtype=object)))
    with pytest.raises(InputError):
        load_medmnist(path)
    assert not trap.exists()

    def archive(name: str, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> None:
        with zipfile.ZipFile(io.BytesIO(_npz())) as sound, zipfile.ZipFile(path, "w") as made:
            for entry in sound.namelist():
                if entry != name:
                    made.writestr(entry, sound.read(entry))
            made.writestr(name, content, compression)

    def header(shape: str) -> bytes:
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode()

    for content in (
        header("(1000000000000, 28, 28)"), header("(-1, 28, 28)"), header("(2**99,)"),
        header("(1, 28, 28)"), b"\x93NUMPY\x01\x00\xff\xff", b"\x93NUMPY\x09\x00", b"",
        header("(300, 1000, 1000)") + bytes(300_000_000),
    ):  # fmt: skip
        archive("train_images.npy", content)
        started = time.monotonic()
        with pytest.raises(InputError, match=r"a\.npz"):
            load_medmnist(path)
        assert time.monotonic() - started < 60
    archive("../../escaped.npy", header("(1,)") + b"x")
    load_medmnist(path, ("benign", "malignant"))
    assert not (tmp_path.parent / "escaped.npy").exists()


cells = st.one_of(
    st.text(max_size=6), st.sampled_from(("phantom/0", "file", "group", "", "\0", "x" * 200_000))
)


@functools.cache
def phantom() -> ImageDataset:
    section = DatasetSection(source="phantom", phantom_num_images=30, image_size_pixels=16)
    return load_dataset(section)


@MANY
@given(
    rows=st.lists(st.lists(cells, max_size=4), max_size=5),
    header=st.booleans(),
    raw=st.binary(max_size=40),
)
def test_group_files(rows: list[list[str]], header: bool, raw: bytes) -> None:
    dataset = phantom()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "groups.csv"
        with path.open("w", newline="", encoding="utf-8", errors="surrogatepass") as stream:
            writer = csv.writer(stream)
            if header:
                writer.writerow(["file", "group"])
            writer.writerows(rows)
        used_or_refused(lambda: find_groups(dataset, str(path), Path(folder)))
        path.write_bytes(b"file,group\n" + raw)
        used_or_refused(lambda: find_groups(dataset, str(path), Path(folder)))


@MANY
@given(content=st.one_of(st.binary(max_size=80), damaged([pickle.dumps({"a": [1]})])),
       suffix=st.sampled_from((".pth", ".pt", ".safetensors", ".bin", "")))  # fmt: skip
def test_weights_files(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"w{suffix}"
        path.write_bytes(content)
        with pytest.raises(InputError):
            check_weights(str(path), "resnet18")


def test_pickled_weights_are_refused_and_not_run(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    torch.save({"a": _Trap(trap)}, tmp_path / "w.pth")
    (tmp_path / "v.pth").write_bytes(pickle.dumps(_Trap(trap)))
    trap.unlink(missing_ok=True)
    for name in ("w.pth", "v.pth"):
        with pytest.raises(InputError, match="pickled objects are refused"):
            check_weights(str(tmp_path / name), "resnet18")
    assert not trap.exists()


WORDS = (
    "run", "studies", "status", "data", "check", "describe", "phantom", "report", "replay",
    "predict", "leak-gap", "evaluate", "promote", "rollback", "models", "doctor", "sync", "--json",
    "--fix", "--trials", "--name", "--data", "--workers", "--device", "--set", "--to", "--seed",
    "--model-uri", "--weights", "--force", "--reason", "--version", "0", "-1", "nan", "1e999",
    "a/b", "..", "", "absent", "epochs=x", "models:/x@y", "cuda:99", *list_bundled()[:2],
)  # fmt: skip


@MANY
@given(words=st.lists(st.one_of(st.sampled_from(WORDS), st.text(max_size=6)), max_size=6))
def test_command_lines(words: list[str]) -> None:
    # A line that would begin a long search is made a wrong one; so is one that would serve.
    if "run" in words:
        words = [*words, "--device", "cuda:99"]
    with tempfile.TemporaryDirectory() as folder:
        answer = call_here("--home", Path(folder) / "home", *words)
        assert answer.returncode in (0, 1, 2), answer
        assert "Traceback" not in answer.stderr
        assert "Unexpected" not in answer.stderr, answer.stderr
        assert not (Path(folder) / "home" / "studies").exists()
