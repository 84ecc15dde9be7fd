"""Digests are of the content, and files are read again only where they may have changed."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from busi_search.data import file_digests as module
from busi_search.data.file_digests import file_digests
from busi_search.data.progress import listening
from busi_search.errors import InputError


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files just written count as settled."""
    monkeypatch.setattr(module, "_SETTLED_SECONDS", -60.0)


def _write(root: Path, count: int = 5) -> list[str]:
    root.mkdir(exist_ok=True)
    names = [f"{k}.png" for k in range(count)]
    for k, name in enumerate(names):
        (root / name).write_bytes(b"image %d" % k)
    return names


def _expected(root: Path, names: list[str]) -> list[str]:
    return [hashlib.sha256((root / name).read_bytes()).hexdigest() for name in names]


def _count_reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    read: list[str] = []
    digest = module._digest

    def counting(path: str) -> str:
        read.append(path)
        return digest(path)

    monkeypatch.setattr(module, "_digest", counting)
    return read


@pytest.mark.usefixtures("settled")
def test_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = tmp_path / "set", tmp_path / "cache"
    names = _write(root)
    read = _count_reads(monkeypatch)
    assert file_digests(root, names, cache) == _expected(root, names)
    assert file_digests(root, names[::-1], cache) == _expected(root, names[::-1])
    assert len(read) == 5
    assert file_digests(root, names) == _expected(root, names)
    assert len(read) == 10


@pytest.mark.usefixtures("settled")
def test_a_change_is_seen_though_size_and_date_are_the_same(tmp_path: Path) -> None:
    root, cache = tmp_path / "set", tmp_path / "cache"
    names = _write(root)
    file_digests(root, names, cache)
    before = (root / "2.png").stat()
    time.sleep(0.02)
    (root / "2.png").write_bytes(b"imagE 2")
    os.utime(root / "2.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file_digests(root, names, cache) == _expected(root, names)


def test_what_changed_just_now_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, cache = tmp_path / "set", tmp_path / "cache"
    names = _write(root)
    read = _count_reads(monkeypatch)
    file_digests(root, names, cache)
    file_digests(root, names, cache)
    assert len(read) == 10


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"0.png": [1, 2]}', b'{"0.png": "x"}'])
def test_a_damaged_cache_is_made_again(content: bytes, tmp_path: Path) -> None:
    root, cache = tmp_path / "set", tmp_path / "cache"
    names = _write(root)
    file_digests(root, names, cache)
    (stored,) = (cache / "digests").iterdir()
    stored.write_bytes(content)
    assert file_digests(root, names, cache) == _expected(root, names)


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    root = tmp_path / "set"
    _write(root)
    (root / "empty.png").touch()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "inside.png").symlink_to(root / "0.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/1.png").write_bytes(b"x")
    (root / "folder").symlink_to(tmp_path / "elsewhere")
    for name, words in (
        ("empty.png", "is empty"),
        ("absent.png", "cannot be read"),
        ("link.png", "link to a file outside"),
        ("folder/1.png", "link to a file outside"),
        ("a\nb.png", "not text"),
    ):
        with pytest.raises(InputError, match=words):
            file_digests(root, ["0.png", name])
    assert file_digests(root, ["inside.png"]) == _expected(root, ["0.png"])


def test_progress_is_told(tmp_path: Path) -> None:
    names = _write(tmp_path / "set")
    told: list[tuple[str, int, int]] = []
    with listening(lambda *words: told.append(words)):
        file_digests(tmp_path / "set", names)
    assert told == [("files read", k, 5) for k in range(6)]
