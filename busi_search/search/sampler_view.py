"""What a sampler sees of the trials: pruned ones at the values to be expected of them."""

import copy
import math
from collections.abc import Container, Sequence
from statistics import fmean

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.records import (
    FINISHED,
    looks_at_fold,
    main_value,
    num_epochs,
    unfinished_fold,
)

# What TPE takes for a proposal grows with the trials it is shown. Its good ones are so many of 250
# or more; a part of the others says as well where trials usually are.
MOST_GOOD_TRIALS = 25
MOST_SHOWN_TRIALS = 500


def expected_values(
    trials: Sequence[FrozenTrial], *, running_means: bool = False
) -> list[float | None]:
    """Return the value of every trial; of a pruned one that which is to be expected of it.

    Args:
        trials: with each fold's score as the intermediate value of the step of its index.
        running_means: the intermediate values are means over the folds so far instead.

    Returns:
        A pruned trial has what the finished trials have on average, plus by how much it is better
        than they on the folds it has; on the one that it was given up in, than they were at that
        point of their training. None where nothing is known.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.values]
    overall = fmean(trial.values[0] for trial in complete) if complete else 0.0
    of_fold: dict[int, list[float]] = {}
    for trial in complete:
        for fold, score in _fold_scores(trial, running_means).items():
            of_fold.setdefault(fold, []).append(score)
    usual = {fold: fmean(found) for fold, found in of_fold.items()}
    usual_then: dict[tuple[int, float], float] = {}
    values: list[float | None] = []
    for trial in trials:
        if trial.state != TrialState.PRUNED:
            values.append(main_value(trial))
            continue
        scores = _fold_scores(trial, running_means)
        better = [score - usual.get(fold, overall) for fold, score in scores.items()]
        if (broken_off := unfinished_fold(trial)) is not None:
            fold, share = broken_off.fold, broken_off.epochs / num_epochs(trial)
            if (fold, share) not in usual_then:
                then = [auc for t in complete if (auc := _auc_until(t, fold, share)) is not None]
                usual_then[fold, share] = fmean(then) if then else math.nan
            # Halfway through its epochs a network has a far lower AUC than in the end.
            if not math.isnan(usual_then[fold, share]):
                better.append(broken_off.auc - usual_then[fold, share])
        values.append(overall + fmean(better) if better else None)
    return values


def with_expected_values(
    trials: Sequence[FrozenTrial], *, running_means: bool = False
) -> list[FrozenTrial]:
    """Return trials, pruned ones with their expected values; see :func:`expected_values`."""
    values = expected_values(trials, running_means=running_means)
    return [
        _as(trial, trial.state, value)
        if trial.state == TrialState.PRUNED and value is not None
        else trial
        for trial, value in zip(trials, values, strict=True)
    ]


def _as(trial: FrozenTrial, state: TrialState, value: float) -> FrozenTrial:
    """Return a copy of a trial with another state and value."""
    other = copy.copy(trial)
    other.state, other.values = state, [value]
    return other


def _auc_until(trial: FrozenTrial, fold: int, share: float) -> float | None:
    """Return the highest validation AUC of a finished trial up to a share of its epochs."""
    looks = list(looks_at_fold(trial, fold))
    if not looks:
        return None
    latest = share * num_epochs(trial) + 1e-9
    return max((auc for epoch, auc in looks if epoch <= latest), default=None)


def as_finished(
    trials: Sequence[FrozenTrial], *, minimise: bool, running_means: bool = False
) -> list[FrozenTrial]:
    """Return trials with pruned ones as if finished, at their expected values; of many, a part.

    Optuna's TPE ranks every finished trial before every pruned one. Where most trials are pruned
    and the first were finished for want of anything to compare them with, it then takes these for
    the good ones. A pruned trial of which nothing is known gets the worst value of all.

    Of more than ``MOST_SHOWN_TRIALS`` these are left: the ``MOST_GOOD_TRIALS`` best, and the others
    that have ended evenly in their order; all that are under way.
    """
    values = expected_values(trials, running_means=running_means)
    known = [value for value in values if value is not None]
    if not known:
        return list(trials)
    worst = (max if minimise else min)(known)
    return [
        _as(trials[index], TrialState.COMPLETE, worst if value is None else value)
        if trials[index].state == TrialState.PRUNED
        else trials[index]
        for index, value in _part(trials, values, minimise=minimise)
    ]


def _part(
    trials: Sequence[FrozenTrial], values: Sequence[float | None], *, minimise: bool
) -> list[tuple[int, float | None]]:
    """Return index and value of the trials that are shown to a sampler, in their order."""
    if len(trials) <= MOST_SHOWN_TRIALS:
        return list(enumerate(values))
    ended = [index for index, trial in enumerate(trials) if trial.state.is_finished()]
    ranked = sorted((v, index) for index in ended if (v := values[index]) is not None)
    good = {index for _, index in (ranked if minimise else ranked[::-1])[:MOST_GOOD_TRIALS]}
    others = [index for index in ended if index not in good]
    places = np.linspace(0, len(others) - 1, MOST_SHOWN_TRIALS - len(good)).round().astype(int)
    left_out = set(others) - {others[place] for place in places}
    return [(index, value) for index, value in enumerate(values) if index not in left_out]


def _fold_scores(trial: FrozenTrial, running_means: bool) -> dict[int, float]:
    found = dict(sorted(trial.intermediate_values.items()))
    if not running_means:
        return found
    totals = np.array(list(found.values())) * np.arange(1, len(found) + 1)
    return dict(zip(found, np.diff(totals, prepend=0.0).tolist(), strict=True))


class SamplerView(Study):
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
