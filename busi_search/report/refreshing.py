"""A study's pages in MLflow, rendered again when there are new figures to say."""

import warnings
from functools import wraps
from typing import Any

from busi_search.errors import BusiSearchError
from busi_search.home import Home, open_home
from busi_search.models.registry import describe, find_version
from busi_search.release import external
from busi_search.release.descriptions import describe_study, describe_version
from busi_search.release.winner import Winner
from busi_search.report.in_words import auc_with_interval, found_and_spared
from busi_search.report.publishing import registered_version, study_texts
from busi_search.report.study_view import reopen_winner
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord


def refresh_pages(home: Home, name: str, *, data: str | None = None) -> None:
    """Render the report, the model card and the descriptions of a study again in MLflow.

    After the sealed test was opened, or an external evaluation was made, they show its figures.
    A study that has registered no winner has no pages yet, and is left as it is.

    Args:
        home: where the study is.
        name: of the study.
        data: where its images are on this machine, if not where they were last found.

    Raises:
        InputError: the images of the study are gone or changed.
        BusiSearchError: MLflow does not take the pages, or the ledger was changed.
    """
    study = find_study(home, name)
    record = StudyRecord(study)
    number = registered_version(record)
    if number is None:
        return
    winner = reopen_winner(home, name, data=data)
    tracker = Tracker(winner.context)
    with tracking_errors(home):
        tracker.start(study)
        tracker.log_texts(study_texts(winner, record, number))
        version = find_version(home, number)
        tested = sealed_test_sentence(home, name, number, positive=_positive_class(winner))
        tracker.log_result({}, {"mlflow.note.content": tested + describe_study(winner, version)})
        describe(home, version, tested + describe_version(winner))


def _positive_class(winner: Winner) -> str:
    development = winner.context.development
    return development.class_names[development.positive]


def sealed_test_sentence(home: Home, name: str, version: str, *, positive: str) -> str:
    """Return what a version scored on the sealed test, as Markdown; empty if it was not asked.

    Args:
        home: where the study is.
        name: of the study.
        version: of the model.
        positive: name of the positive class.
    """
    entries = SealLedger(home, name).entries()
    own = [e for e in entries if e["kind"] == "figures" and e["version"] == version]
    if not own:
        return ""
    last = own[-1]
    return (
        f"**Sealed test:** on {last['num_images']} images that no model had seen, "
        f"{found_and_spared(last, positive)}. {auc_with_interval(last)}.\n\n"
    )


@wraps(external.evaluate_elsewhere)
def evaluate_elsewhere(
    study: str, data: str, *, home: Home | str | None = None, **options: Any
) -> external.ExternalReport:
    """Evaluate elsewhere, then render the study's pages in MLflow again."""
    place = home if isinstance(home, Home) else open_home(home)
    report = external.evaluate_elsewhere(study, data, home=place, **options)
    try:
        refresh_pages(place, study)
    except BusiSearchError as error:
        warnings.warn(not_refreshed(study, error), stacklevel=2)
    return report


def not_refreshed(study: str, error: Exception) -> str:
    """Return that a study's pages in MLflow are older than its figures, and what to do."""
    return (
        f"The figures are kept, but MLflow's copy of the report was not rendered again: {error} "
        f"`busi-search report {study} --to FILE.html` shows them."
    )
