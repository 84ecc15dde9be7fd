"""One trial: sample, cross-validate, store and report every fold, prune, return."""

import math
from collections.abc import Container, Sequence
from contextlib import closing

import numpy as np
import optuna

from busi_search.data.progress import listening
from busi_search.search.context import StudyContext
from busi_search.search.cross_validation import (
    TrainingDiverged,
    cross_validate,
    development_set,
)
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.pruning.race import Incumbents, Race
from busi_search.search.space import suggest_hyperparameters
from busi_search.search.store.notes import write_note
from busi_search.search.store.queue import Claim
from busi_search.search.store.records import (
    UnfinishedFold,
    first_fold,
    objective_value,
    stored_costs,
    stored_folds,
    write_cost,
    write_fold,
    write_hyperparameters,
    write_prune_reason,
    write_standard_error,
)
from busi_search.search.work_clock import WorkClock
from busi_search.spec import Hyperparameters
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
            optuna.TrialPruned: the trial is stopped early; the reason is stored.
            TrialTaken: the trial is another worker's now.
        """
        section, trial = self._context.spec.study, claim.trial
        hyperparameters = suggest_hyperparameters(trial, self._context.spec)
        write_hyperparameters(trial, hyperparameters)
        # Each trial begins with a fold of its own; sums are taken in one order.
        results = sorted(self._evaluate(claim, hyperparameters), key=lambda result: result.fold)
        scores = [result.metrics[section.metric] for result in results]
        spread = float(np.std(scores, ddof=1) / math.sqrt(len(scores)))
        write_standard_error(trial, spread)
        stored = claim.frozen()
        return [objective_value(stored, results, name) for name in section.objectives]

    def _evaluate(self, claim: Claim, hyperparameters: Hyperparameters) -> list[FoldResult]:
        """Train fold by fold, store and report what is finished; stop where it is not worth it."""
        context, trial, num_folds = self._context, claim.trial, len(self._context.partition.folds)
        before = claim.frozen()
        finished = stored_folds(before, num_folds)
        race, results = Race(context, self._incumbents, claim), list[FoldResult]()
        clock = WorkClock(trial)
        steps = cross_validate(
            development_set(context, hyperparameters),
            hyperparameters,
            study_seed=context.spec.study.seed,
            trial_number=trial.number,
            device=context.device,
            cache=context.home.cache,
            finished=finished,
            first_fold=first_fold(context.spec.study, trial.number, num_folds),
        )
        try:
            with closing(steps), listening(clock.shared_part_done), closing(clock):
                for step in steps:
                    if isinstance(step, Look):
                        clock.epochs_done(step)
                        reason, within = race.look(step), UnfinishedFold.at(step)
                    else:
                        within = None
                        results.append(step)
                        clock.fold_done()
                        self._measure_costs(trial, step, hyperparameters.image_size_pixels)
                        if step.fold not in finished:
                            _check_owner(claim)
                            write_fold(claim.storage, claim.trial_id, step)
                        reason = self._report(trial, results, reported=before.intermediate_values)
                        reason = reason or race.fold(step)
                    if reason is not None:
                        raise _pruned(claim, reason, within)
        except TrainingDiverged as error:
            raise _pruned(claim, str(error)) from error
        return results

    def _measure_costs(self, trial: optuna.Trial, result: FoldResult, size_pixels: int) -> None:
        """Store what the model costs, once, as soon as there is one."""
        model = result.model
        if model is None or "num_parameters" in stored_costs(trial):
            return
        if "latency_ms" in self._context.spec.study.objectives:
            latency = measure_latency(model, size_pixels, self._context.device)
            write_cost(trial, "latency_ms", latency)
        # Last: its presence says that all are known.
        write_cost(trial, "num_parameters", sum(p.numel() for p in model.parameters()))

    def _report(
        self, trial: optuna.Trial, results: Sequence[FoldResult], *, reported: Container[int]
    ) -> str | None:
        """Report the latest fold to Optuna; return the reason if its pruner gives the trial up.

        The value is the mean over the folds so far, by their number less one: curves of trials
        that began with different folds can then be compared. A pruner that pairs the folds of
        trials is told each fold's score by its index.
        """
        section, fold = self._context.spec.study, results[-1].fold
        scores = [result.metrics[section.metric] for result in results]
        value, step = scores[-1], fold
        if section.reports_running_means:
            value, step = sum(scores) / len(scores), len(scores) - 1
        # Optuna's reports and pruners are for one objective.
        if not section.further_objectives and step not in reported:
            trial.report(value, step)
        whole = len(results) == len(self._context.partition.folds)
        if not whole and section.asks_optuna_to_prune and trial.should_prune():
            return f"{section.pruner} pruner after fold {fold}"
        return None


def _check_owner(claim: Claim) -> None:
    if not claim.is_mine():
        raise TrialTaken(str(claim.trial.number))


def _pruned(claim: Claim, reason: str, within: UnfinishedFold | None = None) -> optuna.TrialPruned:
    """Store why a trial is stopped early, and within which fold, if in the middle of one."""
    if within is not None:
        _check_owner(claim)
    write_prune_reason(claim.trial, reason, within)
    study = claim.trial.study.study_name
    write_note(claim.storage, study, claim.trial_id, f"Stopped early: {reason}")
    return optuna.TrialPruned(reason)
