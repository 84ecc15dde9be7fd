"""Find a good breast-ultrasound classifier, and estimate fairly how it will do on new images."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busi_search.models.loading import load_champion
    from busi_search.release.recalibrate import recalibrate_model
    from busi_search.report.refreshing import evaluate_elsewhere
    from busi_search.report.study_view import load_study
    from busi_search.run import run_study

__all__ = [
    "evaluate_elsewhere",
    "load_champion",
    "load_study",
    "recalibrate_model",
    "run_study",
]

_HOMES = {
    "evaluate_elsewhere": "busi_search.report.refreshing",
    "load_champion": "busi_search.models.loading",
    "load_study": "busi_search.report.study_view",
    "recalibrate_model": "busi_search.release.recalibrate",
    "run_study": "busi_search.run",
}


def __getattr__(name: str) -> Any:
    """Import what a notebook uses when it is first used: torch and MLflow take seconds."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'busi_search' has no attribute '{name}'")


def __dir__() -> list[str]:
    """List the public names, also those not yet imported."""
    return sorted({*globals(), *__all__})
