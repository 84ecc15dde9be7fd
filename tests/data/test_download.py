import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from busi_search.data import download
from busi_search.data.download import SOURCES, download_dataset
from busi_search.errors import BusiSearchError, InputError
from tests.command import call_here

CONTENT = b"images" * 30_000


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.requests += 1
        if self.path == "/absent":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if self.path == "/drip":
            self._drip()
            return
        self.wfile.write(CONTENT[:999] if self.path == "/cut" else CONTENT)

    def _drip(self) -> None:
        """A byte now and then, until nobody listens."""
        with suppress(OSError):
            for index in range(1000):
                self.wfile.write(CONTENT[index : index + 1])
                time.sleep(0.1)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A server on this machine in the place of the published address."""
    with HTTPServer(("127.0.0.1", 0), _Handler) as running:
        running.requests = 0
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        _point_to(monkeypatch, f"http://127.0.0.1:{running.server_port}/file")
        yield running
        running.shutdown()
        thread.join()


def _point_to(monkeypatch: pytest.MonkeyPatch, url: str, **changes: object) -> None:
    known = replace(SOURCES["breastmnist"], md5=hashlib.md5(CONTENT).hexdigest())
    monkeypatch.setitem(SOURCES, "breastmnist", replace(known, url=url, **changes))


def test_a_file_is_fetched_once(server: HTTPServer, tmp_path: Path) -> None:
    path = download_dataset("breastmnist", tmp_path / "new" / "data")
    assert path == tmp_path / "new" / "data" / "breastmnist.npz"
    assert path.read_bytes() == CONTENT
    assert download_dataset("breastmnist", path.parent) == path
    assert server.requests == 1


@pytest.mark.parametrize(
    ("path", "changes", "words"),
    [
        ("/file", {"md5": "0" * 32}, "expected 0000"),
        ("/file", {"max_bytes": 1000}, "more than 1000 bytes"),
        ("/absent", {}, "404"),
        ("/cut", {}, "sent 999 bytes"),
    ],
)
def test_what_is_wrong_leaves_nothing(
    server: HTTPServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    changes: dict[str, object],
    words: str,
) -> None:
    _point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}{path}", **changes)
    with pytest.raises(BusiSearchError, match=words) as caught:
        download_dataset("breastmnist", tmp_path)
    assert str(tmp_path / "breastmnist.npz") in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_another_file_of_that_name_is_left_alone(server: HTTPServer, tmp_path: Path) -> None:
    mine = tmp_path / "breastmnist.npz"
    mine.write_bytes(b"mine")
    with pytest.raises(InputError, match="move it away"):
        download_dataset("breastmnist", tmp_path)
    assert mine.read_bytes() == b"mine"
    assert server.requests == 0


def test_a_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert download.CONNECT_SECONDS == 10
    with socket.create_server(("127.0.0.1", 0)) as silent:
        _point_to(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}/file")
        started = time.monotonic()
        with pytest.raises(BusiSearchError, match=r"put breastmnist\.npz from") as caught:
            download_dataset("breastmnist", tmp_path, connect_seconds=0.3)
    assert time.monotonic() - started < 60
    assert str(tmp_path / "breastmnist.npz") in str(caught.value)


def test_a_server_that_drips_is_given_up(
    server: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert download.TOTAL_SECONDS == 600
    monkeypatch.setattr(download, "TOTAL_SECONDS", 0.5)
    _point_to(monkeypatch, f"http://127.0.0.1:{server.server_port}/drip")
    started = time.monotonic()
    with pytest.raises(BusiSearchError, match="not complete after"):
        download_dataset("breastmnist", tmp_path)
    assert time.monotonic() - started < 60
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_is_looked_up_forever_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = threading.Event()

    def look_up(*_words: object, **_more: object) -> None:
        asked.wait(300)
        raise OSError("no such name")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    _point_to(monkeypatch, "http://data.invalid/file")
    started = time.monotonic()
    with pytest.raises(BusiSearchError, match=r"no answer within 0\.3 s"):
        download_dataset("breastmnist", tmp_path, connect_seconds=0.3)
    assert time.monotonic() - started < 60
    asked.set()


def test_a_machine_without_a_network_is_told_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    _point_to(monkeypatch, f"http://127.0.0.1:{port}/file")
    with pytest.raises(BusiSearchError, match=r"put breastmnist\.npz from https://zenodo\.org"):
        download_dataset("breastmnist", tmp_path)


def test_the_published_address_and_checksum() -> None:
    source = SOURCES["breastmnist"]
    assert source.url.startswith(source.page)
    assert source.md5 == "750601b1f35ba3300ea97c75c52ff8f6"


@pytest.mark.parametrize(("name", "words"), [("busi", "by hand"), ("mnist", "breastmnist")])
def test_the_command_says_what_it_cannot_fetch(name: str, words: str, tmp_path: Path) -> None:
    done = call_here("--home", tmp_path / "home", "data", "download", name, "--to", tmp_path / "d")
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "d").exists()
