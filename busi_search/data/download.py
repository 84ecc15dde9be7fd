"""Fetch a published dataset, whole and checked, or say where to get it."""

import hashlib
import http.client
import queue
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from busi_search.errors import BusiSearchError, InputError, reason_of
from busi_search.files import check_free_space, user_path, write_file

CONNECT_SECONDS = 10.0
TOTAL_SECONDS = 600.0
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class Source:
    """Where a file is published.

    Attributes:
        url: address of the file.
        file_name: what it is called here.
        md5: published checksum, hexadecimal.
        max_bytes: more than this is not that file.
        page: where a person finds it.
    """

    url: str
    file_name: str
    md5: str
    max_bytes: int
    page: str


def _breastmnist(size_pixels: int, md5: str, max_bytes: int) -> Source:
    file_name = "breastmnist.npz" if size_pixels == 28 else f"breastmnist_{size_pixels}.npz"
    page = "https://zenodo.org/records/10519652"
    return Source(
        url=f"{page}/files/{file_name}?download=1",
        file_name=file_name,
        md5=md5,
        max_bytes=max_bytes,
        page=page,
    )


# Checksums as medmnist 3.0.2 publishes them (its INFO). Larger than the smallest are MedMNIST+.
SOURCES = {
    "breastmnist": _breastmnist(28, "750601b1f35ba3300ea97c75c52ff8f6", 5_000_000),
    "breastmnist_64": _breastmnist(64, "742edef2a1fd1524b2efff4bd7ba9364", 20_000_000),
    "breastmnist_128": _breastmnist(128, "363e4b3f8d712e9b5de15470a2aaadf1", 60_000_000),
    "breastmnist_224": _breastmnist(224, "b56378a6eefa9fed602bb16d192d4c8b", 150_000_000),
}
SIZES = (28, 64, 128, 224)
KNOWN = ("breastmnist",)
# BUSI is published without an address and a checksum that would last.
BY_HAND = {
    "busi": (
        "BUSI has no lasting address with a checksum, so it is not downloaded: get "
        "Dataset_BUSI_with_GT by hand from its authors' page "
        "(https://scholar.cu.edu.eg/?q=afahmy/pages/dataset) or from Kaggle, unpack it to "
        "{folder}/Dataset_BUSI_with_GT, and look at it with `busi-search data check {folder}`."
    ),
}


def download_dataset(
    name: str,
    folder: str | Path = "data",
    *,
    size_pixels: int = 28,
    connect_seconds: float = CONNECT_SECONDS,
) -> Path:
    """Fetch a dataset into a folder; a file that is there and has the right checksum is kept.

    Args:
        name: ``breastmnist`` or ``busi``.
        folder: where to put it.
        size_pixels: side of BreastMNIST's images: 28, 64, 128 or 224.
        connect_seconds: how long the server may be silent.

    Returns:
        The file, complete and with the published checksum.

    Raises:
        InputError: an unknown name, one to be got by hand, or a file of that name with other
            content is there.
        BusiSearchError: the server cannot be reached, or sends something else.
    """
    place = user_path(folder)
    if name in BY_HAND:
        raise InputError(BY_HAND[name].format(folder=place))
    if name not in KNOWN:
        known = ", ".join([*KNOWN, *BY_HAND])
        raise InputError(f"No dataset '{name}' is known; there are: {known}.")
    if size_pixels not in SIZES:
        sizes = ", ".join(map(str, SIZES))
        raise InputError(f"{name} has no images of {size_pixels} px; its sizes are {sizes}.")
    source = SOURCES[name if size_pixels == 28 else f"{name}_{size_pixels}"]
    target = place / source.file_name
    if target.exists():
        if _md5(target.read_bytes()) == source.md5:
            return target
        raise InputError(
            f"{target}: exists and is not the published file (MD5 {source.md5}); move it away "
            "or choose another folder with --to."
        )
    content = _fetch(source, target, connect_seconds)
    if _md5(content) != source.md5:
        raise BusiSearchError(
            f"{source.url}: sent {len(content)} bytes with MD5 {_md5(content)}, expected "
            f"{source.md5}; nothing was kept; try again, or put {source.file_name} from "
            f"{source.page} at {target}."
        )
    place.mkdir(parents=True, exist_ok=True)
    check_free_space(place, len(content))
    write_file(target, content)
    return target


def _fetch(source: Source, target: Path, connect_seconds: float) -> bytes:
    """Read a file of limited size in limited time."""
    deadline = time.monotonic() + TOTAL_SECONDS
    content = bytearray()
    try:
        with open_url(source.url, connect_seconds) as response:
            # read() waits until a chunk is full: a server that drips would outlast every limit.
            while chunk := response.read1(_CHUNK_BYTES):
                content += chunk
                if len(content) > source.max_bytes:
                    raise ValueError(f"more than {source.max_bytes} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {TOTAL_SECONDS:.0f} s")
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        raise BusiSearchError(
            f"{source.url}: cannot be fetched ({reason_of(error)}); put {source.file_name} from "
            f"{source.page} at {target}, or try again with a network."
        ) from None
    return bytes(content)


def open_url(
    url: str | urllib.request.Request,
    seconds: float,
    opener: urllib.request.OpenerDirector | None = None,
) -> http.client.HTTPResponse:
    """Open an address; also the search for its name may not take longer.

    Args:
        url: an address that is known to be http or https.
        seconds: how long the server may be silent.
        opener: in place of urllib's own, which follows redirections.

    Raises:
        OSError: it cannot be opened, or not in time.
    """
    open_it = urllib.request.urlopen if opener is None else opener.open
    outcome: queue.Queue[http.client.HTTPResponse | Exception] = queue.Queue()

    def work() -> None:
        try:
            outcome.put(open_it(url, timeout=seconds))
        except Exception as error:
            outcome.put(error)

    # A daemon: the system's resolver knows no time limit and must not hold the exit up.
    threading.Thread(target=work, daemon=True).start()
    try:
        found = outcome.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if isinstance(found, Exception):
        raise found
    return found


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
