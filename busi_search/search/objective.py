"""One trial: sample, cross-validate, store and report every fold, prune, return."""

import math
from collections.abc import Container, Sequence
from contextlib import closing

import numpy as np
import optuna

from busi_search.search.claim import Claim
from busi_search.search.context import StudyContext
from busi_search.search.cross_validation import (
    TrainingDiverged,
    cross_validate,
    development_set,
)
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.pruning.race import Incumbents, Race
from busi_search.search.space import suggest_hyperparameters
from busi_search.search.store.records import (
    HYPERPARAMETERS,
    PRUNE_REASON,
    STANDARD_ERROR,
    UNFINISHED_FOLD,
    UnfinishedFold,
    encode_fold,
    first_fold,
    fold_key,
    objective_value,
    stored_folds,
)
from busi_search.spec import COSTS
from busi_search.training.fit import measure_latency


class TrialTaken(Exception):
    """Another worker has taken the trial over, for this one was not heard of for too long."""


class Objective:
    """Callable that claimed trials are scored with; keeps the best trial's folds at hand."""

    def __init__(self, context: StudyContext, study: optuna.Study) -> None:
        self._context = context
        self._incumbents = Incumbents(context, study)

    def __call__(self, claim: Claim) -> list[float]:
        """Return the value of every objective: means over folds, and what the model costs.

        Every finished fold is stored at once: a trial that was interrupted goes on at the next
        fold, under the same number and seeds, with the same result.

        Raises:
            optuna.TrialPruned: the trial is given up; the reason is stored.
            TrialTaken: the trial is another worker's now.
        """
        context, section, trial = self._context, self._context.spec.study, claim.trial
        hyperparameters = suggest_hyperparameters(trial, context.spec)
        trial.set_user_attr(HYPERPARAMETERS, hyperparameters.model_dump())
        num_folds = len(context.partition.folds)
        before = claim.frozen()
        finished = stored_folds(before, num_folds)
        race, results = Race(context, self._incumbents, claim), list[FoldResult]()
        steps = cross_validate(
            development_set(context, hyperparameters),
            hyperparameters,
            study_seed=section.seed,
            trial_number=trial.number,
            device=context.device,
            cache=context.home.cache,
            finished=finished,
            first_fold=first_fold(section, trial.number, num_folds),
        )
        try:
            with closing(steps):
                for step in steps:
                    if isinstance(step, Look):
                        reason = race.look(step)
                        if reason is not None:
                            _store_unfinished(claim, step)
                    else:
                        results.append(step)
                        self._measure_costs(trial, step, hyperparameters.image_size_pixels)
                        if step.fold not in finished:
                            _check_owner(claim)
                            trial.set_user_attr(fold_key(step.fold), encode_fold(step))
                        reason = self._report(trial, results, reported=before.intermediate_values)
                        reason = reason or race.fold(step)
                    if reason is not None:
                        raise _pruned(trial, reason)
        except TrainingDiverged as error:
            raise _pruned(trial, str(error)) from error
        # Each trial began with a fold of its own; sums are taken in one order.
        results.sort(key=lambda result: result.fold)
        scores = [result.metrics[section.metric] for result in results]
        spread = float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
        trial.set_user_attr(STANDARD_ERROR, spread)
        after = claim.frozen()
        return [objective_value(after, results, name) for name in section.objectives]

    def _measure_costs(self, trial: optuna.Trial, result: FoldResult, size_pixels: int) -> None:
        """Store what the model costs, once, as soon as there is one."""
        model = result.model
        if model is None or COSTS[0] in trial.user_attrs:
            return
        if "latency_ms" in self._context.spec.study.objectives:
            latency = measure_latency(model, size_pixels, self._context.device)
            trial.set_user_attr("latency_ms", latency)
        # Last: its presence says that all are known.
        trial.set_user_attr(COSTS[0], sum(p.numel() for p in model.parameters()))

    def _report(
        self, trial: optuna.Trial, results: Sequence[FoldResult], *, reported: Container[int]
    ) -> str | None:
        """Report the latest fold to Optuna; return the reason if its pruner gives the trial up."""
        section, fold = self._context.spec.study, results[-1].fold
        # Optuna's reports and pruners are for one objective.
        if not section.further_objectives and fold not in reported:
            scores = [result.metrics[section.metric] for result in results]
            value = sum(scores) / len(scores) if section.reports_running_means else scores[-1]
            trial.report(value, fold)
        whole = len(results) == len(self._context.partition.folds)
        if not whole and section.asks_optuna_to_prune and trial.should_prune():
            return f"{section.pruner} pruner after fold {fold}"
        return None


def _check_owner(claim: Claim) -> None:
    if not claim.is_mine():
        raise TrialTaken(str(claim.trial.number))


def _store_unfinished(claim: Claim, look: Look) -> None:
    """Store that a trial is given up within a fold."""
    _check_owner(claim)
    unfinished = UnfinishedFold(look.fold, look.epoch, max(look.val_auc))
    claim.trial.set_user_attr(UNFINISHED_FOLD, unfinished.encode())


def _pruned(trial: optuna.Trial, reason: str) -> optuna.TrialPruned:
    trial.set_user_attr(PRUNE_REASON, reason)
    return optuna.TrialPruned(reason)
