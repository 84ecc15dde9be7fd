"""Optuna's own pruners, which look at scores alone."""

import optuna

from busi_search.spec import StudySection


def make_pruner(section: StudySection, num_folds: int) -> optuna.pruners.BasePruner:
    """Return Optuna's pruner for a study; ``none`` and ``evidence`` never prune by themselves."""
    if section.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=section.startup_trials)
    if section.pruner == "hyperband":
        return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=num_folds)
    if section.pruner == "wilcoxon":
        # Over five folds the usual 0.1 cannot be reached before the fourth.
        return optuna.pruners.WilcoxonPruner(p_threshold=0.26)
    return optuna.pruners.NopPruner()
