"""The ledger of a sealed test: append-only, chained by hashes, so that no edit goes unnoticed."""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from busi_search.errors import BusiSearchError
from busi_search.home import Home

GENESIS = "0" * 64
_FILE_NAME = "ledger.jsonl"


def ledger_path(home: Home, study_name: str) -> Path:
    """Return where the ledger of a study's sealed test is kept."""
    return home.study_folder(study_name) / _FILE_NAME


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
