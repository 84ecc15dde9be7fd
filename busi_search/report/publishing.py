"""Writes a winner to MLflow: figures, description, page, model card."""

import json

import numpy as np

from busi_search.models.export import logged_model_of
from busi_search.models.registry import RegisteredVersion
from busi_search.release.descriptions import calibration_rows, corrected_figures, describe_study
from busi_search.release.selection import pareto_front
from busi_search.release.winner import Winner
from busi_search.report.grad_cam import maps_of
from busi_search.report.model_card import card_markdown, make_model_card
from busi_search.report.study_page import render_report
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.study_record import LearningCurve, StudyRecord


def publish_winner(
    winner: Winner, version: RegisteredVersion, record: StudyRecord, tracker: Tracker
) -> None:
    """Write figures, description, page and model card of a winner to the study's run.

    Args:
        winner: the study's winner.
        version: the registered model.
        record: what the study keeps about itself.
        tracker: started.

    Raises:
        TrackingAway: the store does not take them.
    """
    context = winner.context
    finite = {key: value for key, value in winner.metrics.items() if np.isfinite(value)}
    tags = {
        "busi.best_trial": str(winner.number),
        "busi.model_version": version.version,
        "mlflow.note.content": describe_study(winner, version),
    }
    corrected = corrected_figures(winner.estimates)
    tracker.log_result(
        finite | corrected | calibration_rows(winner.calibration_figures),
        tags,
        model_id=logged_model_of(context.home, version),
    )
    if context.spec.study.further_objectives:
        front = {trial.number for trial in pareto_front(winner.trials, context.spec.study)}
        tracker.tag_trials(front, "busi.pareto")
    tracker.log_texts(
        {
            **study_texts(winner, record, version.version),
            "best_hyperparameters.json": json.dumps(winner.hyperparameters.model_dump(), indent=2),
        }
    )


def study_texts(winner: Winner, record: StudyRecord, version: str | None) -> dict[str, str]:
    """Return the page and the model card of a study by their names in MLflow.

    Args:
        winner: the study's winner.
        record: what the study keeps about itself.
        version: that the winner is registered as, or None.

    Raises:
        BusiSearchError: the ledger of the sealed test was changed.
    """
    ledger = SealLedger(winner.context.home, winner.context.name).entries()
    card = make_model_card(winner, ledger, version)
    return {
        "report.html": render_report(
            winner,
            card,
            ledger=ledger,
            maps=maps_of(record.explanations, winner.number),
            growth=growth_of(record.learning_curve, winner.number),
            version=version,
            versions=record.versions,
        ),
        "model_card.md": card_markdown(winner.context.name, card),
    }


def registered_version(record: StudyRecord) -> str | None:
    """Return the version that a study's winner was registered as last, or None."""
    return None if record.released is None else record.released.version


def growth_of(curve: LearningCurve | None, trial: int) -> LearningCurve | None:
    """Return how a winner's score grows with images, if what is kept is of this trial."""
    return curve if curve is not None and curve.trial == trial else None
