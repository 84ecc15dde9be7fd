"""Find the best honest breast-ultrasound classifier, and show why it is the best."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from busi_search.release.predict import load_champion
    from busi_search.release.run import load_study, run_study

__all__ = ["load_champion", "load_study", "run_study"]


def __getattr__(name: str) -> Any:
    """Import what a notebook uses when it is first used: torch and MLflow take seconds."""
    if name in ("load_study", "run_study"):
        from busi_search.release import run

        return getattr(run, name)
    if name == "load_champion":
        from busi_search.release.predict import load_champion

        return load_champion
    raise AttributeError(f"module 'busi_search' has no attribute '{name}'")
