"""One trial: sample, cross-validate, report every fold, prune, return."""

import math
from collections.abc import Container, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.context import StudyContext
from busi_search.search.cross_validation import TrainingDiverged, cross_validate_configuration
from busi_search.search.fold_result import FoldResult
from busi_search.search.pruning import (
    FIRST_LOOK,
    LEAST_CHANCE,
    LEAST_LOOK_CHANCE,
    Difference,
    hoped_difference,
    paired_differences,
    weigh,
)
from busi_search.search.space import suggest_hyperparameters
from busi_search.search.store.queue import Claim
from busi_search.search.store.records import (
    HYPERPARAMETERS,
    PRUNE_REASON,
    STANDARD_ERROR,
    UNFINISHED_FOLD,
    WORKER,
    UnfinishedFold,
    best_trial,
    encode_fold,
    first_fold,
    fold_key,
    objective_value,
    stored_folds,
    trial_hyperparameters,
)
from busi_search.spec import COSTS
from busi_search.training.fit import measure_latency
from busi_search.training.zoo import ImageClassifier


class TrialTaken(Exception):
    """Another worker has taken the trial over, for this one was not heard of for too long."""


class Incumbent(NamedTuple):
    """The best finished trial: its number, its folds by index, its epochs."""

    number: int
    folds: dict[int, FoldResult]
    epochs: int


class Race(NamedTuple):
    """What the looks within one fold of one trial have in common.

    Attributes:
        trial: number of the trial.
        fold: index of the fold under way.
        incumbent: whom the trial is compared with, as of its first look.
        differences: on the folds that the trial has finished.
    """

    trial: int
    fold: int
    incumbent: Incumbent | None
    differences: list[Difference]


class Objective:
    """Callable that Optuna's trials are scored with; keeps the best trial's folds at hand."""

    def __init__(self, context: StudyContext, study: optuna.Study) -> None:
        self._context = context
        self._study = study
        self._incumbent: Incumbent | None = None
        self._race: Race | None = None

    def __call__(self, claim: Claim) -> list[float]:
        """Return the value of every objective: means over folds, and what the model costs.

        Every finished fold is stored at once: a trial that was interrupted goes on at the next
        fold, under the same number and seeds, with the same result.

        Raises:
            optuna.TrialPruned: the trial is given up; the reason is stored.
            TrialTaken: the trial is another worker's now.
        """
        self._claim, trial = claim, claim.trial
        context, section = self._context, self._context.spec.study
        hyperparameters = suggest_hyperparameters(trial, context.spec)
        trial.set_user_attr(HYPERPARAMETERS, hyperparameters.model_dump())
        folds = context.partition.folds
        frozen = self._frozen(trial)
        finished, owner = stored_folds(frozen, len(folds)), frozen.user_attrs.get(WORKER)
        results: list[FoldResult] = []
        fits = cross_validate_configuration(
            context,
            hyperparameters,
            trial_number=trial.number,
            finished=finished,
            watch=partial(self._watch, trial, owner, hyperparameters.epochs, results),
            first_fold=first_fold(section, trial.number, len(folds)),
        )
        try:
            for result in fits:
                results.append(result)
                if result.model is not None and COSTS[0] not in trial.user_attrs:
                    self._measure_costs(trial, result.model, hyperparameters.image_size_pixels)
                if result.fold not in finished:
                    if self._frozen(trial).user_attrs.get(WORKER) != owner:
                        raise TrialTaken(str(trial.number))
                    trial.set_user_attr(fold_key(result.fold), encode_fold(result))
                self._report_and_prune(trial, results, reported=frozen.intermediate_values)
        except TrainingDiverged as error:
            raise self._pruned(trial, str(error)) from error
        # Each trial began with a fold of its own; sums are taken in one order.
        results.sort(key=lambda result: result.fold)
        scores = [result.metrics[section.metric] for result in results]
        spread = float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
        trial.set_user_attr(STANDARD_ERROR, spread)
        frozen = self._frozen(trial)
        return [objective_value(frozen, results, name) for name in section.objectives]

    def _measure_costs(self, trial: optuna.Trial, model: ImageClassifier, size: int) -> None:
        if "latency_ms" in self._context.spec.study.objectives:
            trial.set_user_attr("latency_ms", measure_latency(model, size, self._context.device))
        # Last: its presence says that all are known.
        trial.set_user_attr(COSTS[0], sum(p.numel() for p in model.parameters()))

    def _frozen(self, trial: optuna.Trial) -> FrozenTrial:
        # By identity, not from the list of all trials, which grows.
        return self._claim.frozen()

    def _report_and_prune(
        self, trial: optuna.Trial, results: list[FoldResult], *, reported: Container[int]
    ) -> None:
        section = self._context.spec.study
        scores = [result.metrics[section.metric] for result in results]
        fold = results[-1].fold
        # Optuna's reports and pruners are for one objective.
        if not section.further_objectives:
            value = sum(scores) / len(scores) if section.reports_running_means else scores[-1]
            if fold not in reported:
                trial.report(value, fold)
        if len(results) == len(self._context.partition.folds):
            return
        if section.asks_optuna_to_prune and trial.should_prune():
            raise self._pruned(trial, f"{section.pruner} pruner after fold {fold}")
        self._weigh_evidence(trial, results)

    def _watch(
        self,
        trial: optuna.Trial,
        owner: str | None,
        epochs: int,
        finished: Sequence[FoldResult],
        fold: int,
        epoch: int,
        val_auc: Sequence[float],
    ) -> None:
        """Give up within a fold what would not be good enough if the fold ended at its best."""
        context, section = self._context, self._context.spec.study
        by_auc = section.pruner == "evidence" and section.objectives == ("cv_auc",)
        if epoch < FIRST_LOOK * epochs or not by_auc:
            return
        if "recipe" in trial.user_attrs and not finished:
            # A known system is shown beside the winner: it gets a whole fold.
            return
        race = self._race
        if race is None or (race.trial, race.fold) != (trial.number, fold):
            # Once a fold: a look may come every few milliseconds.
            best = self._best_folds(trial)
            differences = paired_differences(context, finished, best.folds) if best else []
            race = self._race = Race(trial.number, fold, best, differences)
        rival = race.incumbent
        if rival is None:
            return
        hoped = hoped_difference(
            val_auc,
            rival.folds[fold],
            epoch / epochs,
            context.development.labels[context.partition.folds[fold].validation],
            best_epochs=rival.epochs,
            positive=context.development.positive,
        )
        if hoped is None:
            return
        evidence = weigh(race.differences, len(context.partition.folds), hoped=hoped)
        if evidence.chance < LEAST_LOOK_CHANCE:
            if self._frozen(trial).user_attrs.get(WORKER) != owner:
                raise TrialTaken(str(trial.number))
            unfinished = UnfinishedFold(fold, epoch, max(val_auc))
            trial.set_user_attr(UNFINISHED_FOLD, unfinished.encode())
            raise self._pruned(
                trial,
                f"in epoch {epoch} of {epochs} of fold {fold}, its number {len(finished) + 1}, AUC "
                f"{max(val_auc):.3f} at best: at most {evidence.difference:+.3f} ± "
                f"{evidence.standard_error:.3f} against trial {rival.number}, a chance of "
                f"{evidence.chance:.1g} to end above it",
            )

    def _weigh_evidence(self, trial: optuna.Trial, results: list[FoldResult]) -> None:
        if self._context.spec.study.pruner != "evidence":
            return
        incumbent = self._best_folds(trial)
        if incumbent is None:
            return
        differences = paired_differences(self._context, results, incumbent.folds)
        evidence = weigh(differences, len(self._context.partition.folds))
        if evidence.chance < LEAST_CHANCE:
            raise self._pruned(
                trial,
                f"after {len(results)} fold(s) {evidence.difference:+.3f} ± "
                f"{evidence.standard_error:.3f} against trial {incumbent.number}, "
                f"a chance of {evidence.chance:.1g} to end above it",
            )

    def _best_folds(self, trial: optuna.Trial) -> Incumbent | None:
        """Return the best finished trial that costs no more."""
        section = self._context.spec.study
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        costs = [name for name in section.further_objectives if name in COSTS]
        if len(costs) < len(section.further_objectives):
            # A second metric is known only in the end: nothing can be ruled out before.
            return None
        if costs:
            mine = self._frozen(trial).user_attrs
            complete = [t for t in complete if all(t.user_attrs[key] <= mine[key] for key in costs)]
        best = best_trial(complete, section.direction)
        if best is None:
            return None
        if self._incumbent is None or self._incumbent.number != best.number:
            folds = stored_folds(best, len(self._context.partition.folds))
            epochs = trial_hyperparameters(best).epochs
            self._incumbent = Incumbent(best.number, folds, epochs)
        return self._incumbent

    def _pruned(self, trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
        trial.set_user_attr(PRUNE_REASON, reason)
        return optuna.TrialPruned(reason)
