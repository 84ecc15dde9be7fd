"""Who proposes the next configuration: Optuna's samplers, seeded per trial."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.space import grid_of
from busi_search.seeding import derive_seed
from busi_search.spec import StudySpec


class SeededSampler(BaseSampler):
    """Gives every trial a sampler of its own, seeded by the trial's number.

    A proposal then depends on the trials before it and on its number only, not on which process
    asks or on how often the search was interrupted; a resumed search does not repeat the draws it
    began with.
    """

    def __init__(self, make: Callable[[int], BaseSampler], study_seed: int) -> None:
        self._make = make
        self._study_seed = study_seed
        self._current: tuple[int, BaseSampler] | None = None

    def _of(self, trial: FrozenTrial) -> BaseSampler:
        if self._current is None or self._current[0] != trial.number:
            seed = derive_seed(self._study_seed, trial.number, -1, "sampler")
            self._current = (trial.number, self._make(seed))
        return self._current[1]

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """See Optuna."""
        return self._of(trial).infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        return self._of(trial).sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """See Optuna."""
        return self._of(trial).sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """See Optuna."""
        self._of(trial).before_trial(study, trial)

    def after_trial(
        self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """See Optuna; the grid sampler's end is kept by :func:`num_possible_trials` instead."""
        sampler = self._of(trial)
        if not isinstance(sampler, optuna.samplers.GridSampler):
            sampler.after_trial(study, trial, state, values)


def make_sampler(spec: StudySpec) -> BaseSampler:
    """Return the sampler a study names.

    Raises:
        InputError: ``grid`` on a space that is not finite.
    """
    section = spec.study
    startup = section.startup_trials
    if section.sampler == "grid":
        grid = grid_of(spec.space)

    def make(seed: int) -> BaseSampler:
        if section.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if section.sampler == "gp":
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=startup)
        if section.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=max(1, startup))
        if section.sampler == "grid":
            return optuna.samplers.GridSampler(grid, seed=section.seed)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup)

    return SeededSampler(make, section.seed)


def num_possible_trials(spec: StudySpec) -> int | None:
    """Return how many different trials a study can have, or None for no limit.

    A study without a space has its recipes, or its one configuration; a grid has its points.
    """
    if not spec.space:
        return max(1, len(spec.recipe))
    if spec.study.sampler != "grid":
        return None
    return math.prod(len(values) for values in grid_of(spec.space).values())
