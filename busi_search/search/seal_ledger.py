"""The ledger of a study's sealed test, kept in three stores that are compared at every use."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import Any

from busi_search.data.ledger import (
    Entry,
    agrees_with,
    anchor_of,
    ledger_path,
    make_entry,
    num_intact,
    num_openings,
    read_ledger,
    write_entries,
)
from busi_search.errors import BusiSearchError
from busi_search.home import Home
from busi_search.interrupts import interrupts_wait
from busi_search.search.mlflow.ledger_anchor import LEDGER_TAG, LedgerAnchor
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.locks import ledger_lock
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord

# Tag of a version: how often the test had been opened when it was evaluated.
OPENINGS_TAG = "busi.test_openings"


class SealLedger:
    """Every opening of one study's sealed test, and every figure that came of it.

    The entries are in a file of the home and in the Optuna storage, and MLflow holds their number
    and the hash of the last. Entries that one of the first two lacks are written again, and an
    entry of kind ``mended`` says so; only in a shared storage it is normal that this machine's file
    lacks what other machines added. Entries that contradict each other are refused.
    """

    def __init__(self, home: Home, study_name: str, *, ask_mlflow: bool = True) -> None:
        """Take the study whose test is counted.

        Args:
            home: where the three stores are.
            study_name: name of the study.
            ask_mlflow: compare with MLflow, too, if it answers; without, a use takes milliseconds.
        """
        self._home, self._name = home, study_name
        self._ask_mlflow = ask_mlflow
        self._path = ledger_path(home, study_name)

    @cached_property
    def _record(self) -> StudyRecord:
        return StudyRecord(find_study(self._home, self._name))

    def entries(self) -> list[Entry]:
        """Return all entries, oldest first, after comparing the stores.

        Raises:
            InputError: no such study.
            BusiSearchError: entries were changed or removed.
        """
        return self._use()

    def append(self, kind: str, content: Mapping[str, Any]) -> Entry:
        """Compare the stores, then add an entry to each of them.

        Args:
            kind: ``opened`` or ``figures``.
            content: JSON-ready.

        Raises:
            InputError: no such study.
            BusiSearchError: entries were changed or removed; nothing was added.
        """
        return self._use((kind, content))[-1]

    def num_openings(self) -> int:
        """Return how often the sealed test was opened.

        Raises: as :meth:`entries`.
        """
        return num_openings(self.entries())

    def check_version(self, tags: Mapping[str, str]) -> None:
        """Compare the entries with those there were when a version was evaluated.

        Args:
            tags: of the version, which was made by this study.

        Raises:
            BusiSearchError: entries that the version knows of are gone or were changed.
        """
        entries = self.entries()
        if LEDGER_TAG in tags:
            agrees = agrees_with(entries, tags[LEDGER_TAG])
        else:
            # Evaluated before versions had that tag, if at all.
            agrees = int(tags.get(OPENINGS_TAG, 0)) <= num_openings(entries)
        if not agrees:
            raise self._changed(
                f"{self._path} lacks entries that it had when a registered version was evaluated"
            )

    def _use(self, *new: tuple[str, Mapping[str, Any]]) -> list[Entry]:
        # Read before the lock is taken: an older anchor than the entries is no contradiction.
        tracked = self._record.tracked if self._ask_mlflow else None
        anchor = None if tracked is None else LedgerAnchor(self._home, tracked.run_id)
        # An interrupt within a commit would leave the file locked.
        waits = interrupts_wait() if self._home.has_local_storage else nullcontext()
        with storage_errors(self._home), ledger_lock(self._home, self._name), waits:
            entries = self._settled(None if anchor is None else anchor.text)
            for kind, content in new:
                entries.append(make_entry(entries, kind, content))
                self._write(entries, num_new=1)
        if anchor is not None and entries:
            anchor.update(anchor_of(entries))
        return entries

    def _settled(self, anchor: str | None) -> list[Entry]:
        """Compare the stores, and write to each what it lacks."""
        in_file, stored = read_ledger(self._path), self._record.test_ledger
        in_storage = stored or []
        if (intact := num_intact(in_storage)) < len(in_storage):
            raise self._changed(f"entry {intact + 1} in the study's storage is not as it was")
        shorter, entries = sorted((in_file, in_storage), key=len)
        if entries[: len(shorter)] != shorter:
            raise self._changed(
                f"{self._path} and the study's storage contradict each other; if the file is "
                "wrong, move it away and it is written again from the storage"
            )
        if anchor is not None and not agrees_with(entries, anchor):
            raise self._changed(
                f"MLflow recorded {anchor.split()[0]} entries, which {self._path} and the study's "
                "storage do not hold"
            )
        entries = list(entries)
        if len(in_file) < len(entries) and self._home.has_local_storage:
            found = "missing from its file, and were written again from the study's storage"
        elif len(in_storage) < len(entries) and not (stored is None and anchor is None):
            found = "in its file only, and were written into the study's storage"
        else:
            # Nothing is wrong, or the study is older than its anchors.
            found = None
        if found is not None:
            number = f"{len(entries) - len(shorter)} of {len(entries)} entries were"
            entries.append(make_entry(entries, "mended", {"found": f"{number} {found}"}))
        if len(entries) > len(shorter):
            self._write(entries, num_new=len(entries) - len(in_file))
        return entries

    def _write(self, entries: Sequence[Entry], *, num_new: int) -> None:
        """Put the last entries into the file, then all of them into the storage."""
        write_entries(self._path, entries[len(entries) - num_new :])
        self._record.set_test_ledger(entries)

    def _changed(self, what: str) -> BusiSearchError:
        return BusiSearchError(
            f"The ledger of the sealed test of study '{self._name}' was changed: {what}. Restore "
            "the stores from a backup, or treat the test images as spent: a figure on them is "
            "worth little under any name."
        )
