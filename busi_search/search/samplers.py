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

from busi_search.search.records import EXPECTED_VALUE
from busi_search.search.space import grid_points
from busi_search.search.storage import FINISHED
from busi_search.seeding import derive_seed
from busi_search.spec import StudySpec


def expect_values(
    trials: Sequence[FrozenTrial], *, minimise: bool, single_folds: bool = False
) -> list[FrozenTrial]:
    """Return trials with pruned ones as if finished, at the value to be expected of them.

    Optuna's TPE ranks every finished trial before every pruned one. Where most trials are pruned
    and the first were finished for want of anything to compare them with, it then takes these for
    the good ones.

    Args:
        trials: with the running mean over folds as intermediate values.
        minimise: whether less is better.
        single_folds: the intermediate values are those of single folds instead.

    Returns:
        The same trials; a pruned one has its running mean, moved by what the mean of finished
        trials changed by from that fold to the last. One that was given up within its first fold
        has what was expected of it then; one of which nothing is known the worst value of all.
    """
    values = {t.number: t.values[0] for t in trials if t.state == TrialState.COMPLETE and t.values}
    means = {trial.number: _running_means(trial, single_folds) for trial in trials}
    changes: dict[int, list[float]] = {}
    for number, value in values.items():
        for fold, mean in means[number].items():
            changes.setdefault(fold, []).append(value - mean)
    for trial in trials:
        if trial.state == TrialState.PRUNED and means[trial.number]:
            fold, mean = max(means[trial.number].items())
            values[trial.number] = mean + float(np.mean(changes.get(fold, [0.0])))
        elif trial.state == TrialState.PRUNED and EXPECTED_VALUE in trial.user_attrs:
            values[trial.number] = float(trial.user_attrs[EXPECTED_VALUE])
    if not values:
        return list(trials)
    worst = (max if minimise else min)(values.values())
    expected = list(trials)
    for index, trial in enumerate(trials):
        if trial.state == TrialState.PRUNED:
            expected[index] = copy.copy(trial)
            expected[index].state = TrialState.COMPLETE
            expected[index].values = [values.get(trial.number, worst)]
    return expected


def _running_means(trial: FrozenTrial, single_folds: bool) -> dict[int, float]:
    found = dict(sorted(trial.intermediate_values.items()))
    if not single_folds:
        return found
    means = np.cumsum(list(found.values())) / np.arange(1, len(found) + 1)
    return dict(zip(found, means.tolist(), strict=True))


class _Expectations(Study):
    """What a sampler sees of a study: pruned trials at their expected values, as of one moment."""

    _single_folds = False
    _seen: list[FrozenTrial] | None = None

    @classmethod
    def of(cls, study: Study, *, single_folds: bool) -> Study:
        """Return such a view of a study with one objective, or Hyperband's own view as it is."""
        if type(study) is not Study:
            return study
        view = copy.copy(study)
        view.__class__ = cls
        assert isinstance(view, cls)
        view._single_folds = single_folds
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
            self._seen = expect_values(found, minimise=minimise, single_folds=self._single_folds)
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
        single_folds = section.pruner == "wilcoxon"
        return SeededSampler(
            make, section.seed, lambda study: _Expectations.of(study, single_folds=single_folds)
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
