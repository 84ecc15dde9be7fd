"""Who proposes the next configuration: Optuna's samplers, seeded per trial."""

import copy
from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.records import unfinished_fold
from busi_search.search.space import grid_points
from busi_search.search.storage import FINISHED
from busi_search.seeding import derive_seed
from busi_search.spec import StudySpec


def with_expected_values(
    trials: Sequence[FrozenTrial], *, running_means: bool = False
) -> list[FrozenTrial]:
    """Return trials, pruned ones with the value to be expected of them.

    Args:
        trials: with each fold's score as the intermediate value of the step of its index.
        running_means: the intermediate values are means over the folds so far instead.

    Returns:
        The same trials. A pruned one has what the finished trials have on average, plus by how much
        it is better than they on the folds it has, the one that it was given up in included, as far
        as it went; one of which nothing is known stays as it is.
    """
    values = {t.number: t.values[0] for t in trials if t.state == TrialState.COMPLETE and t.values}
    scores = {trial.number: _fold_scores(trial, running_means) for trial in trials}
    of_fold: dict[int, list[float]] = {}
    for number in values:
        for fold, score in scores[number].items():
            of_fold.setdefault(fold, []).append(score)
    usual = {fold: float(np.mean(found)) for fold, found in of_fold.items()}
    overall = float(np.mean(list(values.values()))) if values else 0.0
    expected = list(trials)
    for index, trial in enumerate(trials):
        own = scores[trial.number]
        if trial.state != TrialState.PRUNED or not own:
            continue
        expected[index] = copy.copy(trial)
        better = [score - usual.get(fold, overall) for fold, score in own.items()]
        expected[index].values = [overall + float(np.mean(better))]
    return expected


def as_finished(
    trials: Sequence[FrozenTrial], *, minimise: bool, running_means: bool = False
) -> list[FrozenTrial]:
    """Return trials with pruned ones as if finished, at their expected values.

    Optuna's TPE ranks every finished trial before every pruned one. Where most trials are pruned
    and the first were finished for want of anything to compare them with, it then takes these for
    the good ones. A pruned trial of which nothing is known gets the worst value of all.
    """
    expected = with_expected_values(trials, running_means=running_means)
    values = [trial.values[0] for trial in expected if trial.values]
    if not values:
        return expected
    worst = (max if minimise else min)(values)
    for index, trial in enumerate(expected):
        if trial.state == TrialState.PRUNED:
            expected[index] = copy.copy(trial)
            expected[index].state = TrialState.COMPLETE
            expected[index].values = trial.values or [worst]
    return expected


def _fold_scores(trial: FrozenTrial, running_means: bool) -> dict[int, float]:
    found = dict(sorted(trial.intermediate_values.items()))
    if running_means:
        totals = np.array(list(found.values())) * np.arange(1, len(found) + 1)
        return dict(zip(found, np.diff(totals, prepend=0.0).tolist(), strict=True))
    broken_off = unfinished_fold(trial)
    return found if broken_off is None else {**found, broken_off.fold: broken_off.auc}


class _Expectations(Study):
    """What a sampler sees of a study: pruned trials at their expected values, as of one moment."""

    _running_means = False
    _seen: list[FrozenTrial] | None = None

    @classmethod
    def of(cls, study: Study, *, running_means: bool) -> Study:
        """Return such a view of a study with one objective, or Hyperband's own view as it is."""
        if type(study) is not Study:
            return study
        view = copy.copy(study)
        view.__class__ = cls
        assert isinstance(view, cls)
        view._running_means = running_means
        return view

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if self._seen is None:
            found = super()._get_trials(deepcopy=False, states=FINISHED)
            minimise = self.direction == StudyDirection.MINIMIZE
            self._seen = as_finished(found, minimise=minimise, running_means=self._running_means)
        return self._seen


class SeededSampler(BaseSampler):
    """Gives every trial a sampler of its own, seeded by the trial's number.

    A proposal then depends on the trials before it and on its number only, not on which process
    asks or on how often the search was interrupted; a resumed search does not repeat the draws it
    began with.
    """

    def __init__(
        self,
        make: Callable[[int], BaseSampler],
        study_seed: int,
        view: Callable[[Study], Study] = lambda study: study,
    ) -> None:
        self._make = make
        self._study_seed = study_seed
        self._view = view
        self._current: tuple[int, BaseSampler, Study] | None = None

    def _of(self, study: Study, trial: FrozenTrial) -> tuple[BaseSampler, Study]:
        if self._current is None or self._current[0] != trial.number:
            seed = derive_seed(self._study_seed, trial.number, -1, "sampler")
            self._current = (trial.number, self._make(seed), self._view(study))
        return self._current[1:]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See Optuna."""
        sampler, seen = self._of(study, trial)
        return sampler.infer_relative_search_space(seen, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        sampler, seen = self._of(study, trial)
        return sampler.sample_relative(seen, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See Optuna."""
        sampler, seen = self._of(study, trial)
        return sampler.sample_independent(seen, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See Optuna."""
        sampler, seen = self._of(study, trial)
        sampler.before_trial(seen, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See Optuna."""
        self._of(study, trial)[0].after_trial(study, trial, state, values)


class GridOrder(BaseSampler):
    """Takes the points of a grid in an order of their own, one a trial, failed ones once more.

    Optuna's grid sampler repeats configurations where hyperparameters are conditional.
    """

    def __init__(self, points: Sequence[dict[str, Any]], *, num_recipes: int, seed: int) -> None:
        self._order = np.random.default_rng(seed).permutation(len(points))
        self._points = points
        self._num_recipes = num_recipes

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See Optuna: nothing is sampled jointly."""
        return {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna: nothing is sampled jointly."""
        return {}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See Optuna: the value of the trial's own point."""
        return self._points[self._order[self._turn(study, trial.number)]][param_name]

    def _turn(self, study: Study, number: int) -> int:
        turn, total = number - self._num_recipes, len(self._points)
        if turn < total:
            return max(0, turn)
        failed = [
            trial.number
            for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,))
            if self._num_recipes <= trial.number < number
        ]
        again = failed[(turn - total) % len(failed)] if failed else number
        return (again - self._num_recipes) % total


def make_sampler(spec: StudySpec) -> BaseSampler:
    """Return the sampler a study names.

    Raises:
        InputError: ``grid`` on a space that is not finite.
    """
    section = spec.study
    startup = section.startup_trials
    if section.sampler == "grid":
        points = grid_points(spec)

    def make(seed: int) -> BaseSampler:
        if section.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if section.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if section.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=max(1, startup))
        if section.sampler == "grid":
            return GridOrder(points, num_recipes=len(spec.recipe), seed=section.seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)

    if section.sampler == "tpe" and not section.further_objectives:
        running = section.reports_running_means
        return SeededSampler(
            make, section.seed, lambda study: _Expectations.of(study, running_means=running)
        )
    return SeededSampler(make, section.seed)


def num_possible_trials(spec: StudySpec) -> int | None:
    """Return how many different trials a study can have, or None for no limit.

    A study without a space has its recipes, or its one configuration; a grid has its points.
    """
    if not spec.space:
        return max(1, len(spec.recipe))
    if spec.study.sampler != "grid":
        return None
    return len(spec.recipe) + len(grid_points(spec))
