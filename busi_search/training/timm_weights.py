"""Pretrained weights of timm's networks: found in a folder, or fetched from their hub and checked.

Files lie in PyTorch's own folder of checkpoints (``$TORCH_HOME/hub/checkpoints``), which can be
carried to a machine without a network, and their names hold their SHA-256.
"""

import hashlib
import http.client
import os
import re
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from email.message import Message
from pathlib import Path
from typing import Any

import torch

from busi_search.architectures import TIMM_PREFIX
from busi_search.data.download import CONNECT_SECONDS, open_url
from busi_search.errors import BusiSearchError, InputError, reason_of
from busi_search.files import check_free_space, disk_errors
from busi_search.training.timm_backbones import import_timm, timm_name

HUB = "https://huggingface.co"
TOTAL_SECONDS = 3600.0
_CHUNK_BYTES = 1 << 20
# So many digits of a SHA-256 stand in a file's name; torchvision's names hold 8.
_NUM_DIGITS = 16


@dataclass(frozen=True)
class HubWeights:
    """Where timm's weights of one name are published.

    Attributes:
        hub_id: ``owner/name`` on the hub.
        file_name: of the weights there.
        tag: timm's name of these weights.
        license: as timm states it, or None where it states none.
    """

    hub_id: str
    file_name: str
    tag: str
    license: str | None

    @property
    def url(self) -> str:
        """Address of the file; the environment variable HF_ENDPOINT names a mirror."""
        endpoint = os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
        return f"{endpoint}/{self.hub_id}/resolve/main/{self.file_name}"

    @property
    def stem(self) -> str:
        """The beginning of the file's name here; its checksum and suffix follow."""
        return self.hub_id.replace("/", "--")

    @property
    def is_non_commercial(self) -> bool:
        """Whether the stated licence forbids commercial use."""
        stated = (self.license or "").lower()
        return "-nc" in stated or "noncommercial" in stated.replace("-", "")

    def find(self) -> Path | None:
        """Return the file where it was put or fetched before, or None."""
        pattern = re.compile(rf"{re.escape(self.stem)}-[0-9a-f]{{{_NUM_DIGITS}}}\.safetensors")
        folder = weights_folder()
        names = sorted(os.listdir(folder)) if folder.is_dir() else []
        return next((folder / name for name in names if pattern.fullmatch(name)), None)


def weights_folder() -> Path:
    """Return PyTorch's folder of downloaded weights; ``TORCH_HOME`` moves it."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def hub_weights(architecture: str) -> HubWeights:
    """Return where the pretrained weights of ``timm/NAME`` are published.

    Raises:
        InputError: timm is not installed, has no such network, or no weights for it on the hub.
    """
    name = timm_name(architecture)
    config: Any = import_timm(architecture).models.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise InputError(
            f"{architecture} has no pretrained weights on timm's hub; use --weights none, or the "
            "path of a file."
        )
    file_name = config.hf_hub_filename or "model.safetensors"
    return HubWeights(config.hf_hub_id, file_name, config.tag or "", config.license)


def fetch_timm_weights(architecture: str, *, connect_seconds: float = CONNECT_SECONDS) -> Path:
    """Return the file of a network's pretrained weights, fetched where it is not there yet.

    Args:
        architecture: ``timm/NAME`` or ``timm/NAME.TAG``.
        connect_seconds: how long the server may be silent.

    Raises:
        InputError: as in :func:`hub_weights`.
        BusiSearchError: the file that is there is damaged, or the server cannot be reached, states
            no checksum or sends something else.
    """
    published = hub_weights(architecture)
    found = published.find()
    if found is not None:
        check_hash_in_name(found)
        return found
    try:
        digest, num_bytes = _ask(published.url, connect_seconds)
        return _download(published, digest, num_bytes, connect_seconds)
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        name = architecture.removeprefix(TIMM_PREFIX)
        raise BusiSearchError(
            f"{published.url}: cannot be fetched ({reason_of(error)}); type `busi-search weights "
            f"fetch {TIMM_PREFIX}{name}` on a machine with a network and copy the file to "
            f"{weights_folder()}, or use --weights none or the path of a file."
        ) from None


def check_hash_in_name(file: Path) -> None:
    """Make sure that a file, if it is there, has the SHA-256 whose beginning ends its name.

    Raises:
        BusiSearchError: it has another.
    """
    wanted = file.stem.rsplit("-", 1)[-1]
    if not file.is_file():
        return
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(wanted):
        raise BusiSearchError(
            f"{file} is damaged: its SHA-256 begins with {found[:8]}, expected {wanted}; delete it."
        )


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nowhere: the hub states size and checksum before it redirects to its files."""


def _ask(url: str, seconds: float) -> tuple[str, int]:
    """Return the SHA-256 and the size that the hub states for a file."""
    request = urllib.request.Request(url, method="HEAD")  # noqa: S310
    try:
        with open_url(request, seconds, urllib.request.build_opener(_NoRedirection)) as response:
            headers: Message = response.headers
    except urllib.error.HTTPError as error:
        if not 300 <= error.code < 400:
            raise
        headers = error.headers
    digest = (headers.get("X-Linked-ETag") or headers.get("ETag") or "").strip('"')
    size = headers.get("X-Linked-Size") or headers.get("Content-Length") or ""
    if re.fullmatch("[0-9a-f]{64}", digest) is None or not size.isdigit():
        raise ValueError("the server states no SHA-256 and size for it")
    return digest, int(size)


def _download(published: HubWeights, digest: str, num_bytes: int, seconds: float) -> Path:
    """Fetch a file of known size and checksum in limited time, and keep it if it is the one."""
    folder = weights_folder()
    target = folder / f"{published.stem}-{digest[:_NUM_DIGITS]}.safetensors"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        check_free_space(folder, num_bytes)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=f".{target.name}.")
    seen, received, deadline = hashlib.sha256(), 0, time.monotonic() + TOTAL_SECONDS
    try:
        with os.fdopen(descriptor, "wb") as stream, open_url(published.url, seconds) as response:
            # read() waits until a chunk is full: a server that drips would outlast every limit.
            while chunk := response.read1(_CHUNK_BYTES):
                seen.update(chunk)
                received += stream.write(chunk)
                if received > num_bytes:
                    break
                if time.monotonic() > deadline:
                    raise TimeoutError(f"not complete after {TOTAL_SECONDS:.0f} s")
        if seen.hexdigest() != digest:
            raise ValueError(
                f"it sent {received} bytes with SHA-256 {seen.hexdigest()[:8]}…, and stated "
                f"{num_bytes} bytes with {digest[:8]}…"
            )
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target
