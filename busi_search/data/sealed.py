"""The only door to test images; every opening is counted in a ledger nobody can edit unnoticed."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from busi_search.data.image_cache import load_images
from busi_search.data.partition import Partition
from busi_search.data.sources import load_dataset
from busi_search.errors import BusiSearchError, InputError
from busi_search.spec import DatasetSection

GENESIS = "0" * 64


@dataclass(frozen=True)
class SealedTest:
    """The test part, opened.

    Attributes:
        images: (N, S, S) uint8.
        labels: (N,) int64.
        groups: (N,) group of each image.
        has_twin: (N,) whether a near-duplicate stands in the development part, as official splits
            allow.
        paths: N names.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    has_twin: npt.NDArray[np.bool_]
    paths: tuple[str, ...]


def _entry_hash(entry: Mapping[str, Any]) -> str:
    content = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_ledger(path: Path) -> list[dict[str, Any]]:
    """Return the entries of a ledger, oldest first; none if there is no file.

    Raises:
        BusiSearchError: an entry was changed, removed or added by hand.
    """
    if not path.exists():
        return []
    entries: list[dict[str, Any]] = []
    previous = GENESIS
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            entry = json.loads(line)
            intact = entry["previous"] == previous and entry["hash"] == _entry_hash(entry)
        except (ValueError, KeyError, TypeError):
            intact = False
        if not intact:
            raise BusiSearchError(
                f"{path}: line {number} of the test ledger was changed or lines are missing; "
                "restore the file, or treat the test set as spent."
            )
        previous = entry["hash"]
        entries.append(entry)
    return entries


def append_to_ledger(path: Path, kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Add an entry, chained to the one before by its hash, and put it on disk.

    Args:
        path: the ledger, one JSON object per line.
        kind: ``opened`` or ``figures``.
        content: JSON-ready.

    Raises:
        BusiSearchError: the ledger was tampered with.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        entries = read_ledger(path)
        entry: dict[str, Any] = {
            "index": len(entries),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "kind": kind,
            **content,
            "previous": entries[-1]["hash"] if entries else GENESIS,
        }
        # As it will be read back, so that the hash is of the same values.
        entry = json.loads(json.dumps(entry))
        entry["hash"] = _entry_hash(entry)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(entry, sort_keys=True) + "\n")
            stream.flush()
            os.fsync(stream.fileno())
    return entry


def num_openings(path: Path) -> int:
    """Return how often the sealed test was opened."""
    return sum(entry["kind"] == "opened" for entry in read_ledger(path))


def open_sealed_test(
    section: DatasetSection,
    partition: Partition,
    *,
    size_pixels: int,
    cache: Path,
    ledger: Path,
    reason: Mapping[str, Any],
) -> SealedTest:
    """Record an opening, then read the test images.

    The entry is on disk before the first pixel is read: whoever looks is counted, whatever
    happens next.

    Args:
        section: the study's ``[dataset]`` section.
        partition: the study's division.
        size_pixels: side S.
        cache: folder of the image cache.
        ledger: the study's ledger.
        reason: who opens it for which model.

    Raises:
        InputError: the data is gone or is not the data the study was made on.
        BusiSearchError: the ledger was tampered with.
    """
    dataset = load_dataset(section)
    if dataset.fingerprint != partition.fingerprint:
        raise InputError(
            f"The images changed since the study began ({partition.fingerprint} → "
            f"{dataset.fingerprint}); restore them to evaluate."
        )
    append_to_ledger(ledger, "opened", {**reason, "partition": partition.digest()})
    test = partition.test
    known = partition.groups[np.setdiff1d(np.arange(len(dataset)), test)]
    part = dataset.subset(test)
    return SealedTest(
        images=np.array(load_images(part, size_pixels, cache)),
        labels=part.labels,
        groups=partition.groups[test],
        has_twin=np.isin(partition.groups[test], known),
        paths=part.paths,
    )
