"""The ledger of a sealed test as a chain of entries: each names the hash of the one before."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from busi_search.errors import BusiSearchError
from busi_search.home import Home

GENESIS = "0" * 64
_FILE_NAME = "ledger.jsonl"

Entry = dict[str, Any]


class OpeningsLedger(Protocol):
    """What the sealed test needs of a ledger: an entry is kept before the first pixel is read."""

    def append(self, kind: str, content: Mapping[str, Any]) -> Entry:
        """Add an entry and keep it for good; raise a BusiSearchError if entries were changed."""
        ...


def ledger_path(home: Home, study_name: str) -> Path:
    """Return where the ledger of a study's sealed test is kept on this machine."""
    return home.study_folder(study_name) / _FILE_NAME


def _entry_hash(entry: Mapping[str, Any]) -> str:
    content = {key: value for key, value in entry.items() if key != "hash"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def make_entry(entries: Sequence[Entry], kind: str, content: Mapping[str, Any]) -> Entry:
    """Return the entry that follows these, chained to the last by its hash.

    Args:
        entries: of the ledger so far, oldest first.
        kind: ``opened``, ``figures`` or ``mended``.
        content: JSON-ready.
    """
    entry: Entry = {
        "index": len(entries),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "kind": kind,
        **content,
        "previous": entries[-1]["hash"] if entries else GENESIS,
    }
    # As it will be read back, so that the hash is of the same values.
    entry = json.loads(json.dumps(entry))
    entry["hash"] = _entry_hash(entry)
    return entry


def num_intact(entries: Iterable[object]) -> int:
    """Return how many entries, from the first on, are chained and unchanged."""
    previous, count = GENESIS, 0
    for entry in entries:
        if not isinstance(entry, dict) or entry.get("previous") != previous:
            break
        if entry.get("hash") != _entry_hash(entry):
            break
        previous, count = entry["hash"], count + 1
    return count


def num_openings(entries: Iterable[Mapping[str, Any]]) -> int:
    """Return how often the sealed test was opened, by the entries of its ledger."""
    return sum(entry["kind"] == "opened" for entry in entries)


def mendings(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return what was wrong with a ledger's stores and was mended, oldest first."""
    return [f"{entry['time']}: {entry['found']}" for entry in entries if entry["kind"] == "mended"]


def anchor_of(entries: Sequence[Entry]) -> str:
    """Return the number of entries and the hash of the last: what another store keeps of them."""
    return f"{len(entries)} {entries[-1]['hash'] if entries else GENESIS}"


def agrees_with(entries: Sequence[Entry], anchor: str) -> bool:
    """Return whether a ledger still begins with the entries that an anchor was made of."""
    number, _, digest = anchor.partition(" ")
    if not number.isdecimal() or int(number) > len(entries):
        return False
    return anchor_of(entries[: int(number)]).endswith(f" {digest}")


def read_ledger(path: Path) -> list[Entry]:
    """Return the entries of a ledger's file, oldest first; none if there is no file.

    A file that was cut, deleted or forged as a whole looks intact here:
    :class:`busi_search.search.seal_ledger.SealLedger` compares it with what other stores hold.

    Raises:
        BusiSearchError: an entry was changed, removed or added by hand.
    """
    if not path.exists():
        return []
    entries: list[Entry] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entries.append(json.loads(line))
        except ValueError:
            entries.append({})
    intact = num_intact(entries)
    if intact < len(entries):
        raise BusiSearchError(
            f"{path}: line {intact + 1} of the test ledger was changed or lines are missing; "
            "restore the file, or move it away to have it written again from the study's storage."
        )
    return entries


def write_entries(path: Path, entries: Iterable[Entry]) -> None:
    """Add entries to the end of a ledger's file, and put them on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(entry, sort_keys=True) + "\n" for entry in entries)
        stream.flush()
        os.fsync(stream.fileno())
