"""Which pretrained weights are known and at hand on this machine, and whether they are whole."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from busi_search.architectures import ARCHITECTURES, TIMM_PREFIX, is_timm
from busi_search.errors import BusiSearchError, InputError
from busi_search.spec.strict import nearest
from busi_search.training.packaged_weights import PACKAGED_WEIGHTS, check_packaged_file
from busi_search.training.timm_backbones import import_timm
from busi_search.training.timm_weights import (
    HubWeights,
    check_hash_in_name,
    fetch_timm_weights,
    hub_weights,
    weights_folder,
)
from busi_search.training.weights import check_weights

State = Literal["at hand", "absent", "damaged"]
_IN_NAME = re.compile(r"(?P<hub>.+)--(?P<name>.+)-(?P<digits>[0-9a-f]{16})\.safetensors")


@dataclass(frozen=True)
class KnownWeights:
    """Pretrained weights of one architecture.

    Attributes:
        architecture: as a study names it.
        source: ``package``, ``torchvision`` or ``timm``.
        state: ``at hand``, ``absent`` or, once it was checked, ``damaged``.
        path: of the file, where it is or would be; None where its package is not installed, or
            where the name of the file is known to the hub alone.
        num_bytes: of the file (of an absent one of torchvision's, its weights alone); None where
            only the hub knows.
        sha256: of the file, or the beginning that is published; None where only the hub knows.
        license: of the weights, as far as it is stated.
        non_commercial: whether that licence forbids commercial use.
        problem: what is wrong with the file, one sentence, or None.
    """

    architecture: str
    source: str
    state: State
    path: str | None
    num_bytes: int | None
    sha256: str | None
    license: str | None
    non_commercial: bool = False
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the row as ``busi-search weights list --json`` prints it."""
        return asdict(self)


def list_weights(patterns: Sequence[str] = ()) -> list[KnownWeights]:
    """Return the weights whose architecture matches a pattern such as ``timm/resnet*``.

    Args:
        patterns: without any, this package's architectures and those of timm's that are at hand.

    Raises:
        InputError: a pattern matches nothing, or timm is needed and not installed.
    """
    own = [_own(name) for name, entry in ARCHITECTURES.items() if entry.imagenet]
    if not patterns:
        return [*own, *_fetched()]
    found: dict[str, KnownWeights] = {}
    for pattern in patterns:
        rows = [row for row in own if fnmatchcase(row.architecture, pattern)]
        if pattern.startswith(TIMM_PREFIX):
            rows = list(_timm(pattern))
        if not rows:
            meant = nearest(pattern, [row.architecture for row in own])
            raise InputError(f"No pretrained weights match '{pattern}'; {meant}")
        found |= {row.architecture: row for row in rows}
    return list(found.values())


def check_all(patterns: Sequence[str] = ()) -> list[KnownWeights]:
    """Return the weights that are at hand, each file read and compared with its checksum.

    Raises:
        InputError: as in :func:`list_weights`.
    """
    return [_checked(row) for row in list_weights(patterns) if row.state == "at hand"]


def fetch_weights(architecture: str) -> KnownWeights:
    """Make sure that the weights of an architecture are at hand, and return them, checked.

    Raises:
        InputError: no such architecture or weights, or a package is not installed.
        BusiSearchError: the weights cannot be fetched, or are damaged.
    """
    if is_timm(architecture):
        fetch_timm_weights(architecture)
    elif architecture in ARCHITECTURES:
        check_weights("imagenet", architecture)
    else:
        meant = nearest(architecture, list(ARCHITECTURES))
        raise InputError(
            f"No architecture '{architecture}'; {meant} Networks of timm's are named timm/NAME."
        )
    (row,) = list_weights([architecture])
    checked = _checked(row)
    if checked.problem is not None:
        raise BusiSearchError(checked.problem)
    return checked


def _own(architecture: str) -> KnownWeights:
    if architecture in PACKAGED_WEIGHTS:
        entry = PACKAGED_WEIGHTS[architecture]
        path = entry.path
        return KnownWeights(
            architecture,
            "package",
            "absent" if path is None else "at hand",
            None if path is None else str(path),
            entry.num_bytes,
            entry.sha256,
            "apache-2.0",
        )
    import torchvision

    weights = torchvision.models.get_model_weights(ARCHITECTURES[architecture].variant).DEFAULT
    name = weights.url.rsplit("/", 1)[-1]
    path = weights_folder() / name
    size = path.stat().st_size if path.is_file() else 4 * weights.meta["num_params"]
    return KnownWeights(
        architecture,
        "torchvision",
        "at hand" if path.is_file() else "absent",
        str(path),
        size,
        path.stem.rsplit("-", 1)[-1],
        None,
    )


def _timm(pattern: str) -> Iterator[KnownWeights]:
    """Yield what timm publishes under names that match; a plain name means its default tag."""
    timm = import_timm(pattern)
    wanted = pattern.removeprefix(TIMM_PREFIX)
    if "*" not in wanted and "?" not in wanted:
        yield _published(pattern, hub_weights(pattern))
        return
    for name in timm.list_pretrained(wanted):
        config = timm.models.get_pretrained_cfg(name)
        if config is not None and config.hf_hub_id:
            yield _published(f"{TIMM_PREFIX}{name}", hub_weights(f"{TIMM_PREFIX}{name}"))


def _published(architecture: str, published: HubWeights) -> KnownWeights:
    path = published.find()
    return KnownWeights(
        architecture,
        "timm",
        "absent" if path is None else "at hand",
        None if path is None else str(path),
        None if path is None else path.stat().st_size,
        None if path is None else path.stem.rsplit("-", 1)[-1],
        published.license,
        published.is_non_commercial,
    )


def _fetched() -> Iterator[KnownWeights]:
    """Yield the files of timm's in the folder of weights, whether or not timm is installed."""
    folder = weights_folder()
    for path in sorted(folder.glob("*.safetensors")) if folder.is_dir() else []:
        match = _IN_NAME.fullmatch(path.name)
        if match is None:
            continue
        architecture = f"{TIMM_PREFIX}{match['name']}"
        try:
            published = hub_weights(architecture)
            licence, restricted = published.license, published.is_non_commercial
        except InputError:  # without timm, or another version of it
            licence, restricted = None, False
        size, digits = path.stat().st_size, match["digits"]
        yield KnownWeights(
            architecture, "timm", "at hand", str(path), size, digits, licence, restricted
        )


def _checked(row: KnownWeights) -> KnownWeights:
    try:
        if row.source == "package":
            check_packaged_file(row.architecture)
        elif row.path is not None:
            check_hash_in_name(Path(row.path))
    except BusiSearchError as error:
        return KnownWeights(**{**asdict(row), "state": "damaged", "problem": str(error)})
    return row
