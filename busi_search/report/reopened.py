"""A searched study's winner and page, made again from what the study keeps."""

from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.release.winner import Winner, find_winner
from busi_search.report.publishing import registered_version, study_texts
from busi_search.search.reopen import reopen_study
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord


def reopen_winner(home: Home, name: str, *, data: str | None = None) -> Winner:
    """Return the winner of a study that was searched; its images are opened and compared.

    Args:
        home: where the study is.
        name: of the study.
        data: where its images are on this machine, if not where they were last found.

    Raises:
        InputError: no such study, no complete trial yet, or its data is gone or changed.
    """
    study = find_study(home, name)
    if not StudyRecord(study).has_begun:
        raise InputError(f"Study '{name}' has not begun; run it first.")
    context = reopen_study(study, home=home, data=data)
    winner = find_winner(context, study.get_trials(deepcopy=False))
    if winner is None:
        raise InputError(
            f"Study '{name}' has no trial that was evaluated on all folds yet; run more trials."
        )
    return winner


def study_page(home: Home, name: str, *, data: str | None = None) -> str:
    """Return the report of a study as one HTML page.

    Args: as :func:`reopen_winner`.

    Raises:
        InputError: as :func:`reopen_winner`.
        BusiSearchError: the ledger of the sealed test was changed.
    """
    winner = reopen_winner(home, name, data=data)
    record = StudyRecord(find_study(home, name))
    return study_texts(winner, record, registered_version(record))["report.html"]
