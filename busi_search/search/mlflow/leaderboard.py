"""MLflow's runs table as a leaderboard: trials only, best first, with what was searched."""

from collections.abc import Iterable
from typing import Any

from busi_search.search.mlflow.lookup import OUTCOME

LEADERBOARD_KEY = "leaderboard"


def leaderboard_view(objective: str, ascending: bool, searched: Iterable[str]) -> dict[str, Any]:
    """Return the state of MLflow's runs table that shows trials best first.

    Undocumented in MLflow: what its own "share view" writes into an experiment tag.

    Args:
        objective: metric to sort by.
        ascending: smallest first.
        searched: hyperparameters of the search space, each of which gets a column.
    """
    return {
        "searchFilter": "tags.`busi.kind` = 'trial'",
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": ascending,
        "selectedColumns": [
            f"metrics.`{objective}`",
            "metrics.`cv_auc_std`",
            # MLflow shows tags behind all parameters: this says at first sight who was stopped.
            f"metrics.`expected_{objective}`",
            f"tags.`{OUTCOME}`",
            "tags.`busi.recipe`",
            *(f"params.`{name}`" for name in searched),
        ],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "useGroupedValuesInCharts": True,
    }
