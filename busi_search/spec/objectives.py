"""What a search may optimise: metrics of the validation folds, and costs of a model."""

from typing import Literal

METRICS = (
    "auc",
    "aupr",
    "accuracy",
    "balanced_accuracy",
    "f1",
    "precision",
    "recall",
    "log_loss",
    "brier",
    "ece",
)
MINIMISED_METRICS = frozenset({"log_loss", "brier", "ece"})

# Properties of a model that a study may optimise besides a metric; smaller is better.
COSTS = ("num_parameters", "latency_ms")


def direction_of(objective: str) -> Literal["maximize", "minimize"]:
    """Return whether a larger or a smaller value of an objective is better."""
    metric = objective.removeprefix("cv_")
    return "minimize" if metric in MINIMISED_METRICS or objective in COSTS else "maximize"
