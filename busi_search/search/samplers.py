"""Optuna's samplers, seeded per trial, propose the next configuration."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.sampler_view import shown_study
from busi_search.search.space import grid_points
from busi_search.seeding import derive_seed
from busi_search.spec import StudySpec

# The time of a Gaussian process grows with the cube of the trials: .05 s at 100, .3 s at 400, 1.5 s
# at 800. From this one on TPE goes on, which then has enough to learn from.
MOST_GP_TRIALS = 400


class SeededSampler(BaseSampler):
    """Gives every trial a sampler of its own, seeded by the trial's number.

    A proposal then depends on the trials before it and on its number only, not on which process
    asks or on how often the search was interrupted; a resumed search does not repeat the draws it
    began with.
    """

    def __init__(
        self,
        make: Callable[[int, int], BaseSampler],
        study_seed: int,
        view: Callable[[Study], Study] = lambda study: study,
    ) -> None:
        """Take what makes a sampler of a seed and a trial's number, and what shows it a study."""
        self._make = make
        self._study_seed = study_seed
        self._view = view
        self._current: tuple[int, BaseSampler, Study] | None = None

    def _of(self, study: Study, trial: FrozenTrial) -> tuple[BaseSampler, Study]:
        if self._current is None or self._current[0] != trial.number:
            seed = derive_seed(self._study_seed, trial.number, -1, "sampler")
            self._current = (trial.number, self._make(seed, trial.number), self._view(study))
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


def make_sampler(spec: StudySpec, storage: BaseStorage | None = None) -> BaseSampler:
    """Return the sampler a study names.

    Args:
        spec: the study.
        storage: where workers meet, so that a sampler can tell the others what it is about to try;
            None tells nobody.

    Raises:
        InputError: ``grid`` on a space that is not finite.
    """
    section = spec.study
    startup = section.startup_trials
    if section.sampler == "grid":
        points = grid_points(spec)

    def make_tpe(seed: int) -> BaseSampler:
        # One hyperparameter at a time: with noisy scores a joint model may stay for hundreds of
        # trials near the first good ones (benchmarks/LOG.md).
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup, multivariate=False)

    def make(seed: int, number: int) -> BaseSampler:
        if section.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if section.sampler == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=max(1, startup))
        if section.sampler == "grid":
            return GridOrder(points, num_recipes=len(spec.recipe), seed=section.seed)
        if section.sampler == "gp" and number < MOST_GP_TRIALS:
            return optuna.samplers.GPSampler(
                seed=seed,
                n_startup_trials=startup,
                # Of what is searched under a condition only, and of the first trials.
                independent_sampler=make_tpe(seed),
                warn_independent_sampling=False,
            )
        return make_tpe(seed)

    if section.sampler not in ("tpe", "gp") or section.further_objectives:
        return SeededSampler(make, section.seed)
    always = frozenset(name for name, searched in spec.space.items() if not searched.only_if)
    return SeededSampler(
        make,
        section.seed,
        partial(
            shown_study,
            storage=storage,
            metric=section.metric,
            running_means=section.reports_running_means,
            needed=always if section.sampler == "gp" else frozenset(),
        ),
    )


def num_possible_trials(spec: StudySpec) -> int | None:
    """Return how many different trials a study can have, or None for no limit.

    A study without a space has its recipes, or its one configuration; a grid has its points.
    """
    if not spec.space:
        return max(1, len(spec.recipe))
    if spec.study.sampler != "grid":
        return None
    return len(spec.recipe) + len(grid_points(spec))
