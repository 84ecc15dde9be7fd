"""Who proposes the next configuration: Optuna's samplers, seeded per trial."""

import copy
import math
from collections.abc import Callable, Container, Sequence
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.records import HYPERPARAMETERS, fold_key, unfinished_fold
from busi_search.search.space import grid_points
from busi_search.search.storage import FINISHED
from busi_search.seeding import derive_seed
from busi_search.spec import StudySpec

# The time of a Gaussian process grows with the cube of the trials: .05 s at 100, .3 s at 400, 1.5 s
# at 800. From this one on TPE goes on, which then has enough to learn from.
MOST_GP_TRIALS = 400


def with_expected_values(
    trials: Sequence[FrozenTrial], *, running_means: bool = False
) -> list[FrozenTrial]:
    """Return trials, pruned ones with the value to be expected of them.

    Args:
        trials: with each fold's score as the intermediate value of the step of its index.
        running_means: the intermediate values are means over the folds so far instead.

    Returns:
        The same trials. A pruned one has what the finished trials have on average, plus by how much
        it is better than they on the folds it has; on the one that it was given up in, than they
        were at that point of their training. One of which nothing is known stays as it is.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.values]
    overall = fmean(trial.values[0] for trial in complete) if complete else 0.0
    of_fold: dict[int, list[float]] = {}
    for trial in complete:
        for fold, score in _fold_scores(trial, running_means).items():
            of_fold.setdefault(fold, []).append(score)
    usual = {fold: fmean(found) for fold, found in of_fold.items()}
    usual_then: dict[tuple[int, float], float] = {}
    expected = list(trials)
    for index, trial in enumerate(trials):
        if trial.state != TrialState.PRUNED:
            continue
        scores = _fold_scores(trial, running_means)
        better = [score - usual.get(fold, overall) for fold, score in scores.items()]
        if (broken_off := unfinished_fold(trial)) is not None:
            fold, share = broken_off.fold, broken_off.epochs / _num_epochs(trial)
            if (fold, share) not in usual_then:
                then = [auc for t in complete if (auc := _auc_until(t, fold, share)) is not None]
                usual_then[fold, share] = fmean(then) if then else math.nan
            # Halfway through its epochs a network has a far lower AUC than in the end.
            if not math.isnan(usual_then[fold, share]):
                better.append(broken_off.auc - usual_then[fold, share])
        if better:
            expected[index] = copy.copy(trial)
            expected[index].values = [overall + fmean(better)]
    return expected


def _num_epochs(trial: FrozenTrial) -> int:
    """Return the number of epochs that a trial was to be trained for."""
    return int(trial.user_attrs[HYPERPARAMETERS]["epochs"])


def _auc_until(trial: FrozenTrial, fold: int, share: float) -> float | None:
    """Return the highest validation AUC of a finished trial up to a share of its epochs."""
    stored = trial.user_attrs.get(fold_key(fold))
    if stored is None:
        return None
    latest = share * _num_epochs(trial) + 1e-9
    looks = zip(stored["val_epochs"], stored["val_auc"], strict=True)
    return max((auc for epoch, auc in looks if epoch <= latest and auc is not None), default=None)


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
            if trial is trials[index]:
                expected[index] = copy.copy(trial)
            expected[index].state = TrialState.COMPLETE
            expected[index].values = trial.values or [worst]
    return expected


def _fold_scores(trial: FrozenTrial, running_means: bool) -> dict[int, float]:
    found = dict(sorted(trial.intermediate_values.items()))
    if not running_means:
        return found
    totals = np.array(list(found.values())) * np.arange(1, len(found) + 1)
    return dict(zip(found, np.diff(totals, prepend=0.0).tolist(), strict=True))


class _Expectations(Study):
    """What a sampler sees of a study: pruned trials at their expected values, as of one moment.

    Trials that lack one of ``needed`` hyperparameters are not shown: a sampler that models all of
    them at once would leave out what a known system has outside of the space.
    """

    _running_means = False
    _needed: frozenset[str] = frozenset()
    _seen: list[FrozenTrial] | None = None

    @classmethod
    def of(
        cls, study: Study, *, running_means: bool, needed: frozenset[str] = frozenset()
    ) -> Study:
        """Return such a view of a study with one objective, or Hyperband's own view as it is."""
        if type(study) is not Study:
            return study
        view = copy.copy(study)
        view.__class__ = cls
        assert isinstance(view, cls)
        view._running_means, view._needed = running_means, needed
        return view

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        if self._seen is None:
            found = super()._get_trials(deepcopy=False, states=(*FINISHED, TrialState.RUNNING))
            found = [t for t in found if self._needed <= t.params.keys()]
            minimise = self.direction == StudyDirection.MINIMIZE
            self._seen = as_finished(found, minimise=minimise, running_means=self._running_means)
        if states is None:
            return self._seen
        return [trial for trial in self._seen if trial.state in states]


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


def make_sampler(spec: StudySpec) -> BaseSampler:
    """Return the sampler a study names.

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
            _Expectations.of,
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
