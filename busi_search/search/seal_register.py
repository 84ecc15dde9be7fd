"""The sealed tests of a home: whose images are known, and how often they were looked at.

Every access to a ledger that concerns several studies stands here.
"""

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import optuna

from busi_search.data.known_images import KnownImages, Membership
from busi_search.data.ledger import ledger_path, make_entry, read_ledger, write_entries
from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.locks import ledger_lock
from busi_search.search.store.open import open_storage
from busi_search.search.store.study_record import StudyRecord

# ``status`` needs none of what this imports.
if TYPE_CHECKING:
    from busi_search.search.context import StudyContext


def register_study(context: "StudyContext", study: optuna.Study) -> None:
    """Note before any trial who is developed on and who is sealed, for every study of the home.

    Raises:
        BusiSearchError: the disk has no room for it.
    """
    KnownImages(context.home).add(context.membership)
    StudyRecord(study).set_counts(context.counts)


def register_old_studies(home: Home) -> None:
    """Register studies that began before a home kept such a register, where their images remain.

    Only those of a local storage; a study whose images are gone or changed is left out.
    """
    if not home.has_local_storage or not (home.root / "optuna.db").exists():
        return
    from busi_search.search.reopen import reopen_study

    registered = {member.study for member in KnownImages(home).memberships}
    # Whoever needs the storage itself says what is wrong with it.
    with suppress(BusiSearchError), storage_errors(home):
        storage = open_storage(home)
        for name in set(optuna.get_all_study_names(storage)) - registered:
            study = optuna.load_study(study_name=name, storage=storage)
            if StudyRecord(study).has_begun:
                with suppress(BusiSearchError, ValueError):
                    reopen_study(study, home=home)


def num_openings_of_study(home: Home, name: str, *, ask_mlflow: bool = True) -> int:
    """Return how often images of a study's sealed test were opened, as :func:`num_openings_of`.

    Args:
        home: where the ledgers are.
        name: of the study.
        ask_mlflow: compare the ledgers with MLflow, too.

    Raises:
        InputError: no such study.
        BusiSearchError: a ledger was tampered with.
    """
    known = KnownImages(home)
    mine = [member for member in known.memberships if member.study == name]
    if not mine:
        return SealLedger(home, name, ask_mlflow=ask_mlflow).num_openings()
    return num_openings_of(known, mine[-1], home, ask_mlflow=ask_mlflow)


def num_openings_of(
    known: KnownImages, mine: Membership, home: Home, *, ask_mlflow: bool = True
) -> int:
    """Return how often images of a study's sealed test were opened, by whichever study or model.

    An opening of another study of the home counts if one of the images that it showed is, by its
    content, one of this study's sealed test. One act that several ledgers hold counts once.

    Raises:
        BusiSearchError: a ledger was tampered with.
    """
    entries = list(_openings(home, mine.study, ask_mlflow=ask_mlflow))
    sealed = known.scans_of(mine.fingerprint, mine.sealed)
    others = {member.study for member in known.memberships} - {mine.study}
    for study in sorted(others):
        members = {m.partition: m for m in known.memberships if m.study == study}
        for entry in _openings(home, study):
            member = members.get(entry.get("partition", ""))
            if member is not None and sealed & _shown(known, member, entry):
                entries.append(entry)
    return len({entry.get("opening", entry["hash"]) for entry in entries})


def _openings(home: Home, study: str, *, ask_mlflow: bool = False) -> Iterator[Mapping[str, Any]]:
    try:
        entries = SealLedger(home, study, ask_mlflow=ask_mlflow).entries()
    except InputError:
        # The study was deleted, or has not begun: what its file has counts still.
        entries = read_ledger(ledger_path(home, study))
    return (entry for entry in entries if entry["kind"] == "opened")


def _shown(known: KnownImages, member: Membership, entry: Mapping[str, Any]) -> frozenset[int]:
    """Return the scans that an opening showed: some of a sealed test, or all of it."""
    if "images" not in entry:
        return known.scans_of(member.fingerprint, member.sealed)
    named = set(entry["images"])
    digests = known.sets[member.fingerprint].digests if member.fingerprint in known.sets else ()
    return known.scans_of(
        member.fingerprint, (i for i in member.sealed if i < len(digests) and digests[i] in named)
    )


def note_opening(
    home: Home,
    member: Membership,
    *,
    images: Sequence[str],
    opening: str,
    content: Mapping[str, Any],
) -> None:
    """Write into a study's ledger that some of its sealed images were shown to a model.

    Args:
        home: where the ledger is.
        member: whose sealed images they are.
        images: digests of the content of those that were shown.
        opening: the same for all ledgers that hold this act.
        content: which model was asked, and how.

    Raises:
        BusiSearchError: the ledger was tampered with.
    """
    append_to_ledger(
        home,
        member.study,
        "opened",
        {
            "study": member.study,
            **content,
            "who": _user(),
            "partition": member.partition,
            "num_images": len(images),
            "images": list(images),
            "opening": opening,
        },
    )


def append_to_ledger(home: Home, study: str, kind: str, content: Mapping[str, Any]) -> None:
    """Add an entry to a study's ledger; of a study that was deleted, its file is all there is.

    Raises:
        BusiSearchError: the ledger was tampered with.
    """
    try:
        SealLedger(home, study).append(kind, content)
    except InputError:
        path = ledger_path(home, study)
        with ledger_lock(home, study):
            write_entries(path, [make_entry(read_ledger(path), kind, content)])


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
