"""Every size of BreastMNIST has its own address and checksum; a server here stands for the real."""

import hashlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from busi_search.data import download
from busi_search.data.download import SIZES, SOURCES, download_dataset
from busi_search.errors import BusiSearchError, InputError
from tests.command import call_here


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        content = urlsplit(self.path).path.encode() * 100
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with HTTPServer(("127.0.0.1", 0), _Handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        moved = {}
        for name, source in SOURCES.items():
            path = urlsplit(source.url).path
            url = f"http://127.0.0.1:{running.server_port}{path}"
            moved[name] = replace(source, url=url, md5=hashlib.md5(path.encode() * 100).hexdigest())
        monkeypatch.setattr(download, "SOURCES", moved)
        yield
        running.shutdown()
        thread.join()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("size", SIZES)
def test_each_size_is_its_own_file(size: int, tmp_path: Path) -> None:
    answer = call_here("data", "download", "breastmnist", "--size", size, "--to", tmp_path)
    assert answer.returncode == 0, answer.stderr
    name = "breastmnist.npz" if size == 28 else f"breastmnist_{size}.npz"
    assert (tmp_path / name).read_bytes() == f"/records/10519652/files/{name}".encode() * 100
    assert answer.stdout.strip() == str(tmp_path / name)


@pytest.mark.usefixtures("here")
def test_another_sizes_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {**download.SOURCES}
    wrong["breastmnist_64"] = replace(wrong["breastmnist_64"], url=wrong["breastmnist_128"].url)
    monkeypatch.setattr(download, "SOURCES", wrong)
    with pytest.raises(BusiSearchError, match=r"MD5.*nothing was kept"):
        download_dataset("breastmnist", tmp_path, size_pixels=64)
    assert list(tmp_path.iterdir()) == []


def test_checksums_are_those_that_medmnist_publishes() -> None:
    """As in INFO of medmnist 3.0.2 on PyPI."""
    assert {name: source.md5 for name, source in SOURCES.items()} == {
        "breastmnist": "750601b1f35ba3300ea97c75c52ff8f6",
        "breastmnist_64": "742edef2a1fd1524b2efff4bd7ba9364",
        "breastmnist_128": "363e4b3f8d712e9b5de15470a2aaadf1",
        "breastmnist_224": "b56378a6eefa9fed602bb16d192d4c8b",
    }


def test_other_sizes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="28, 64, 128, 224"):
        download_dataset("breastmnist", tmp_path, size_pixels=32)
    answer = call_here("data", "download", "breastmnist", "--size", 32, "--to", tmp_path)
    assert answer.returncode == 2
