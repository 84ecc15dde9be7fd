"""The sealed tests of a home: whose images are known, and how often they were looked at.

Every access to a ledger that concerns several studies stands here.
"""

import getpass
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import optuna

from busi_search.data.known_images import KnownImages, Membership
from busi_search.data.ledger import append_to_ledger, ledger_path, read_ledger
from busi_search.errors import BusiSearchError
from busi_search.home import Home
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import open_storage
from busi_search.search.store.study_record import StudyRecord


def register_study(context: StudyContext, study: optuna.Study) -> None:
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
    registered = {member.study for member in KnownImages(home).memberships}
    # Whoever needs the storage itself says what is wrong with it.
    with suppress(BusiSearchError), storage_errors(home):
        storage = open_storage(home)
        for name in set(optuna.get_all_study_names(storage)) - registered:
            study = optuna.load_study(study_name=name, storage=storage)
            if StudyRecord(study).has_begun:
                with suppress(BusiSearchError, ValueError):
                    reopen_study(study, home=home)


def num_openings_of(known: KnownImages, mine: Membership, home: Home) -> int:
    """Return how often images of a study's sealed test were opened, by whichever study or model.

    An opening of another study of the home counts if one of the images that it showed is, by its
    content, one of this study's sealed test. One act that several ledgers hold counts once.

    Raises:
        BusiSearchError: a ledger was tampered with.
    """
    entries = list(_openings(home, mine.study))
    sealed = known.scans_of(mine.fingerprint, mine.sealed)
    others = {member.study for member in known.memberships} - {mine.study}
    for study in sorted(others):
        members = {m.partition: m for m in known.memberships if m.study == study}
        for entry in _openings(home, study):
            member = members.get(entry.get("partition", ""))
            if member is not None and sealed & _shown(known, member, entry):
                entries.append(entry)
    return len({entry.get("opening", entry["hash"]) for entry in entries})


def _openings(home: Home, study: str) -> Iterator[Mapping[str, Any]]:
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
        ledger_path(home, member.study),
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


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
