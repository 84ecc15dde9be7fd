"""The study that made a registered version, and whether its ledger is as it was."""

from typing import TYPE_CHECKING

from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.registry import RegisteredVersion
from busi_search.search.mlflow.lookup import carries
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord

if TYPE_CHECKING:
    import optuna


def check_ledger_of(home: Home, version: RegisteredVersion) -> None:
    """Make sure that the ledger of a version's study still holds what it held at its evaluation.

    Raises:
        BusiSearchError: entries were changed or removed.
    """
    study = study_of_version(home, version)
    if study is not None:  # Else made on another home, whose ledger is not here.
        SealLedger(home, study.study_name).check_version(version.tags)


def study_of_version(home: Home, version: RegisteredVersion) -> "optuna.Study | None":
    """Return the study that made a version; None if it is not on this home, or only its name is."""
    try:
        study = find_study(home, version.tags.get("busi.study", ""))
    except InputError:
        return None
    return study if carries(version.tags, StudyRecord(study).id) else None
