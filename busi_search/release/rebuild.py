"""What a trial's stored predictions say of it, and its models trained again from their seeds."""

import hashlib
from collections.abc import Sequence

import numpy as np
from optuna.trial import FrozenTrial, TrialState

from busi_search.errors import BusiSearchError
from busi_search.models.registry import FoldEnsemble
from busi_search.release.calibration import (
    Calibration,
    apply_temperature,
    choose_operating_point,
    fit_temperature,
)
from busi_search.release.selection import Estimate, bias_corrected_estimates, choice_rule
from busi_search.search.context import StudyContext
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import fold_results, gather_out_of_fold
from busi_search.search.store.records import stored_folds, trial_hyperparameters
from busi_search.spec import METRICS
from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.metrics import softmax

# On one kind of CPU a trial comes out the same to the last bit; elsewhere by rounding.
REBUILD_TOLERANCE = 0.05


def estimate_scores(context: StudyContext, trials: Sequence[FrozenTrial]) -> dict[str, Estimate]:
    """Return the winner's figures, corrected for the choice among all trials, pruned ones too."""
    folds = context.partition.folds
    order = [t for t in trials if t.state == TrialState.COMPLETE]
    finished = {t.number: list(stored_folds(t, len(folds)).values()) for t in trials}
    order += [t for t in trials if t.state == TrialState.PRUNED and finished[t.number]]
    gathered = [gather_out_of_fold(finished[trial.number], folds) for trial in order]
    costs, tolerance = choice_rule(order, context.spec.study)
    return bias_corrected_estimates(
        context.development.labels,
        np.stack([softmax(rows.log_probabilities) for rows in gathered]),
        groups=context.groups,
        folds=gathered[0].fold_of,
        metrics=METRICS,
        select_by=context.spec.study.metric,
        costs=costs,
        tolerance=tolerance,
        positive=context.development.positive,
        seed=context.spec.study.seed,
    )


def calibrate(context: StudyContext, trial: FrozenTrial) -> Calibration:
    """Fit temperature and operating point on a trial's out-of-fold predictions."""
    folds = context.partition.folds
    rows = gather_out_of_fold(list(stored_folds(trial, len(folds)).values()), folds)
    labels = context.development.labels
    temperature = fit_temperature(rows.log_probabilities, labels)
    probabilities = apply_temperature(rows.log_probabilities, temperature)
    positive = context.development.positive
    point = choose_operating_point(probabilities[:, positive], labels == positive)
    return Calibration(temperature, point)


def predictions_digest(context: StudyContext, trial: FrozenTrial) -> str:
    """16 hexadecimal digits of a trial's out-of-fold predictions: which result a version is of."""
    folds = stored_folds(trial, len(context.partition.folds))
    content = b"".join(folds[index].log_probabilities.tobytes() for index in sorted(folds))
    return hashlib.sha256(content).hexdigest()[:16]


def rebuild_ensemble(context: StudyContext, trial: FrozenTrial) -> tuple[FoldEnsemble, float]:
    """Train a trial's fold models again and compare their predictions with the stored ones.

    Returns:
        The ensemble, on the CPU in evaluation mode, and the largest difference of a probability.

    Raises:
        BusiSearchError: on a CPU, they differ by more than ``REBUILD_TOLERANCE``.
    """
    train_on_one_core()
    hyperparameters = trial_hyperparameters(trial)
    stored = stored_folds(trial, len(context.partition.folds))
    steps = cross_validate(
        development_set(context, hyperparameters),
        hyperparameters,
        study_seed=context.spec.study.seed,
        trial_number=trial.number,
        device=context.device,
        cache=context.home.cache,
    )
    results = list(fold_results(steps))
    differences = [
        float(
            np.abs(softmax(r.log_probabilities) - softmax(stored[r.fold].log_probabilities)).max()
        )
        for r in results
    ]
    difference = max(differences)
    if difference > REBUILD_TOLERANCE and context.device == "cpu":
        raise BusiSearchError(
            f"Trial {trial.number} was trained again and its predictions differ by up to "
            f"{difference:.3f} from those that were scored; versions or hardware changed since. "
            "Begin a study with --name NEW."
        )
    models = [result.model for result in results if result.model is not None]
    temperature = calibrate(context, trial).temperature
    return FoldEnsemble([model.cpu().eval() for model in models], temperature).eval(), difference
