"""The trial that a study releases, with all that its stored predictions say of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial, TrialState

from busi_search.release.calibration import (
    Calibration,
    apply_temperature,
    choose_operating_point,
    cross_fitted_calls,
    cross_fitted_probabilities,
    fit_temperature,
)
from busi_search.release.calibration_figures import calibration_figures
from busi_search.release.figures import shares_right
from busi_search.release.intervals import Figure
from busi_search.release.selection import (
    Estimate,
    bias_corrected_estimates,
    choice_rule,
    select_trial,
)
from busi_search.search.context import StudyContext, fold_sizes
from busi_search.search.fold_result import FoldResult, OutOfFoldPredictions, gather_out_of_fold
from busi_search.search.store.foreign import foreign_numbers
from busi_search.search.store.records import (
    cv_metrics,
    stored_folds,
    trial_hyperparameters,
)
from busi_search.spec import METRICS, Hyperparameters
from busi_search.training.metrics import softmax

# Figures of probabilities that a temperature changes; "calibrated_" stands before their names where
# they are of predictions that were divided by one.
CALIBRATED_METRICS = ("log_loss", "brier")
CALIBRATED = "calibrated_"
# Objectives by which a temperature may change the choice among trials.
_CHANGED_BY_TEMPERATURE = frozenset({*CALIBRATED_METRICS, "ece"})


Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Winner:
    """The chosen trial of a study; made once, then registered and shown.

    What takes time (the corrected estimates, the calibration) is computed when it is first asked
    for, and then kept.

    Attributes:
        context: the study.
        trials: all its trials, by number, without foreign ones.
        trial: the chosen one.
        folds: its folds in order.
        foreign: numbers of trials that were made elsewhere, and are ignored.
    """

    context: StudyContext
    trials: Sequence[FrozenTrial]
    trial: FrozenTrial
    folds: tuple[FoldResult, ...]
    foreign: tuple[int, ...] = ()

    @property
    def number(self) -> int:
        """Number of the trial."""
        return self.trial.number

    @cached_property
    def hyperparameters(self) -> Hyperparameters:
        """Its full configuration."""
        return trial_hyperparameters(self.trial)

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Its ``cv_`` figures, means over the folds."""
        return cv_metrics(self.folds)

    @cached_property
    def predictions(self) -> OutOfFoldPredictions:
        """Its predictions for all N development images, each by the fold that held it out."""
        return gather_out_of_fold(self.folds, self.context.partition.folds)

    @cached_property
    def probabilities(self) -> npt.NDArray[np.float64]:
        """(N, C) out-of-fold probabilities, as trained."""
        return softmax(self.predictions.log_probabilities)

    @cached_property
    def calibration(self) -> Calibration:
        """Temperature and operating point, fitted on the out-of-fold predictions."""
        development = self.context.development
        labels, positive = development.labels, development.positive
        temperature = fit_temperature(self.predictions.log_probabilities, labels)
        rows = apply_temperature(self.predictions.log_probabilities, temperature)
        point = choose_operating_point(
            rows[:, positive], labels == positive, self.context.spec.operating_point
        )
        return Calibration(temperature, point)

    @cached_property
    def calibrated(self) -> npt.NDArray[np.float64]:
        """(N, C) out-of-fold probabilities, divided by the temperature fitted on all of them."""
        return apply_temperature(self.predictions.log_probabilities, self.calibration.temperature)

    @cached_property
    def cross_fitted(self) -> npt.NDArray[np.float64]:
        """(N, C) out-of-fold probabilities, each fold's divided by the others' temperature."""
        found = self.predictions
        return cross_fitted_probabilities(
            found.log_probabilities, self.context.development.labels, found.fold_of
        )

    @cached_property
    def cross_fitted_called(self) -> npt.NDArray[np.bool_]:
        """(N,) whether an image is called positive, each fold by the threshold of the others."""
        return cross_fitted_calls(
            self.predictions.log_probabilities,
            self.context.development.labels,
            self.predictions.fold_of,
            positive=self.context.development.positive,
            rule=self.context.spec.operating_point,
        )

    @cached_property
    def cross_fitted_point(self) -> tuple[Figure, Figure]:
        """Sensitivity and specificity of the rule, each fold by the threshold of the others."""
        labels, positive = self.context.development.labels, self.context.development.positive
        return shares_right(self.cross_fitted_called, labels == positive, self.context.groups)

    @cached_property
    def calibration_figures(self) -> dict[str, Figure]:
        """Intercept, slope, observed/expected and error of ``cross_fitted``, by name."""
        labels, positive = self.context.development.labels, self.context.development.positive
        scores = self.cross_fitted[:, positive]
        return calibration_figures(scores, labels == positive, self.context.groups)

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """Its figures, corrected for the choice among all trials, by name of the metric.

        Those of ``METRICS`` are of the fold models as they were trained; ``calibrated_log_loss``
        and ``calibrated_brier`` of the same predictions with the temperature of the other folds.
        """
        return estimate_scores(self.context, self.trials)

    @property
    def estimate(self) -> Estimate:
        """The objective, corrected for the choice."""
        return self.estimates[self.context.spec.study.metric]

    @cached_property
    def predictions_digest(self) -> str:
        """16 hexadecimal digits of the out-of-fold predictions: which result a version is of."""
        content = b"".join(fold.log_probabilities.tobytes() for fold in self.folds)
        return hashlib.sha256(content).hexdigest()[:16]


def find_winner(context: StudyContext, trials: Sequence[FrozenTrial]) -> Winner | None:
    """Choose among a study's trials by the rule its file states; None if none is complete.

    Args:
        context: the study.
        trials: all its trials, by number.
    """
    sizes = fold_sizes(context)
    foreign = tuple(foreign_numbers(trials, sizes))
    trials = [trial for trial in trials if trial.number not in foreign]
    best = select_trial(trials, context.spec.study)
    if best is None:
        return None
    folds = stored_folds(best, len(context.partition.folds))
    return Winner(context, trials, best, tuple(folds[index] for index in sorted(folds)), foreign)


def estimate_scores(
    context: StudyContext, trials: Sequence[FrozenTrial], metrics: Sequence[str] | None = None
) -> dict[str, Estimate]:
    """Return the winner's figures, corrected for the choice among all trials, pruned ones too.

    The calibrated ones are not corrected where the search chose by a figure that a temperature
    changes: the choice among calibrated trials could be another. Then ``value`` is ``naive``.

    Args:
        context: the study.
        trials: its own ones, by number.
        metrics: the figures wanted (default: all of ``METRICS``, and the calibrated ones).
    """
    folds, section = context.partition.folds, context.spec.study
    order = [t for t in trials if t.state == TrialState.COMPLETE]
    finished = {t.number: list(stored_folds(t, len(folds)).values()) for t in trials}
    order += [t for t in trials if t.state == TrialState.PRUNED and finished[t.number]]
    gathered = [gather_out_of_fold(finished[trial.number], folds) for trial in order]

    def estimates(
        chosen: Sequence[int], probabilities: Sequence[Array], names: Sequence[str]
    ) -> dict[str, Estimate]:
        costs, tolerance = choice_rule([order[index] for index in chosen], section)
        return bias_corrected_estimates(
            context.development.labels,
            np.stack(probabilities),
            groups=context.groups,
            folds=gathered[0].fold_of,
            metrics=names,
            select_by=section.metric,
            costs=costs,
            tolerance=tolerance,
            positive=context.development.positive,
            seed=section.seed,
        )

    everyone = range(len(order))
    as_trained = [softmax(rows.log_probabilities) for rows in gathered]
    found = estimates(everyone, as_trained, METRICS if metrics is None else metrics)
    if metrics is not None:
        return found
    chosen: Sequence[int] = everyone
    if section.metric in _CHANGED_BY_TEMPERATURE:
        best = select_trial(order, section)
        chosen = [index for index, trial in enumerate(order) if trial is best]
    labels = context.development.labels
    calibrated = [
        cross_fitted_probabilities(gathered[i].log_probabilities, labels, gathered[i].fold_of)
        for i in chosen
    ]
    more = estimates(chosen, calibrated, CALIBRATED_METRICS)
    return found | {f"{CALIBRATED}{name}": estimate for name, estimate in more.items()}
