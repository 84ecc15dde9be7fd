"""What a sampler sees of the trials: pruned ones at the values to be expected of them."""

import copy
import math
from collections.abc import Container, Sequence
from statistics import fmean
from typing import Any

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from busi_search.search.store.fold_records import best_look, fold_scores, unfinished_fold
from busi_search.search.store.foreign import own_trials
from busi_search.search.store.records import FINISHED, course, main_value, num_epochs

# What TPE takes for a proposal grows with the trials it is shown. Its good ones are so many of 250
# or more; a part of the others says as well where trials usually are.
MOST_GOOD_TRIALS = 25
MOST_SHOWN_TRIALS = 500


def expected_values(
    trials: Sequence[FrozenTrial], *, metric: str | None = None, running_means: bool = False
) -> list[float | None]:
    """Return the value of every trial; of a pruned one that which is to be expected of it.

    Args:
        trials: with their finished folds.
        metric: of a fold, that the objective is the mean of.
        running_means: where a trial has no folds, or ``metric`` is None, its intermediate values
            are asked: each fold's score by the fold's index, or means over the folds so far.

    Returns:
        A pruned trial has what the finished trials have on average, plus by how much it is better
        than they on the folds it has; on the one that it was given up in, than those of its course
        were at that point of their training. None where nothing is known.
    """
    complete = [t for t in trials if t.state == TrialState.COMPLETE and t.values]
    overall = fmean(trial.values[0] for trial in complete) if complete else 0.0
    of_fold: dict[int, list[float]] = {}
    for trial in complete:
        for fold, score in _fold_scores(trial, metric, running_means).items():
            of_fold.setdefault(fold, []).append(score)
    usual = {fold: fmean(found) for fold, found in of_fold.items()}
    usual_then: dict[tuple[object, ...], float] = {}
    values: list[float | None] = []
    for trial in trials:
        if trial.state != TrialState.PRUNED:
            values.append(main_value(trial))
            continue
        scores = _fold_scores(trial, metric, running_means)
        better = [score - usual.get(fold, overall) for fold, score in scores.items()]
        if (broken_off := unfinished_fold(trial)) is not None:
            fold, share = broken_off.fold, broken_off.epochs / num_epochs(trial)
            point = (course(trial), fold, share)
            if point not in usual_then:
                # Halfway through its epochs a network has a far lower AUC than in the end, and a
                # head on frozen features has not.
                alike = [t for t in complete if course(t) == point[0]]
                then = [auc for t in alike if (auc := best_look(t, fold, share)) is not None]
                usual_then[point] = fmean(then) if then else math.nan
            if not math.isnan(usual_then[point]):
                better.append(broken_off.auc - usual_then[point])
        values.append(overall + fmean(better) if better else None)
    return values


def with_expected_values(
    trials: Sequence[FrozenTrial], *, metric: str | None = None, running_means: bool = False
) -> list[FrozenTrial]:
    """Return trials, pruned ones with their expected values; see :func:`expected_values`."""
    values = expected_values(trials, metric=metric, running_means=running_means)
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


def as_finished(
    trials: Sequence[FrozenTrial],
    *,
    minimise: bool,
    metric: str | None = None,
    running_means: bool = False,
) -> list[FrozenTrial]:
    """Return trials with pruned ones as if finished, at their expected values; of many, a part.

    Optuna's TPE ranks every finished trial before every pruned one. Where most trials are pruned
    and the first were finished for want of anything to compare them with, it then takes these for
    the good ones. A pruned trial of which nothing is known gets the worst value of all.

    Of more than ``MOST_SHOWN_TRIALS`` these are left: the ``MOST_GOOD_TRIALS`` best, and the others
    that have ended evenly in their order; all that are under way.
    """
    values = expected_values(trials, metric=metric, running_means=running_means)
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


def _fold_scores(trial: FrozenTrial, metric: str | None, running_means: bool) -> dict[int, float]:
    if metric is not None and (scores := fold_scores(trial, metric)):
        return scores
    found = dict(sorted(trial.intermediate_values.items()))
    if not running_means:
        return found
    totals = np.array(list(found.values())) * np.arange(1, len(found) + 1)
    return dict(zip(found, np.diff(totals, prepend=0.0).tolist(), strict=True))


def shown_study(
    study: Study,
    storage: BaseStorage | None = None,
    *,
    metric: str | None = None,
    running_means: bool,
    needed: frozenset[str] = frozenset(),
) -> Study:
    """Return a study with one objective as its sampler shall see it, as of one moment.

    Args:
        study: the study; Hyperband's own view of one is returned as it is.
        storage: where the sampler tells other workers what it is about to try; None tells nobody.
        metric: see :func:`expected_values`.
        running_means: likewise.
        needed: hyperparameters that a trial must have to be shown: a sampler that models all of
            them at once would leave out what a known system has outside of the space.
    """
    if type(study) is not Study:
        return study
    return optuna.load_study(
        study_name=study.study_name,
        storage=ShownTrials(
            study, storage, metric=metric, running_means=running_means, needed=needed
        ),
        sampler=study.sampler,
        pruner=study.pruner,
    )


def _is_not_shown(*_arguments: Any, **_options: Any) -> Any:
    raise NotImplementedError("a sampler is shown the trials of a study, and nothing else of it")


class ShownTrials(BaseStorage):
    """A storage of one study that holds the trials as a sampler sees them; read once."""

    def __init__(
        self,
        study: Study,
        storage: BaseStorage | None,
        *,
        metric: str | None,
        running_means: bool,
        needed: frozenset[str],
    ) -> None:
        """Take the arguments of :func:`shown_study`."""
        self._study, self._storage = study, storage
        self._metric, self._running_means, self._needed = metric, running_means, needed
        self._trials: list[FrozenTrial] | None = None

    def get_study_id_from_name(self, study_name: str) -> int:
        """Return a number that means nothing elsewhere."""
        return 0

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:
        """See Optuna."""
        return self._study.directions

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """Return the trials that are shown; whoever asks may not change them."""
        if self._trials is None:
            states_shown = (*FINISHED, TrialState.RUNNING)
            found = [t for t in own_trials(self._study) if t.state in states_shown]
            found = [t for t in found if self._needed <= t.params.keys()]
            minimise = self._study.direction == StudyDirection.MINIMIZE
            self._trials = as_finished(
                found,
                minimise=minimise,
                metric=self._metric,
                running_means=self._running_means,
            )
        if states is None:
            return self._trials
        return [trial for trial in self._trials if trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Tell other workers what is about to be tried, where they meet."""
        if self._storage is not None:
            self._storage.set_trial_system_attr(trial_id, key, value)

    create_new_study = _is_not_shown
    delete_study = _is_not_shown
    set_study_user_attr = _is_not_shown
    set_study_system_attr = _is_not_shown
    get_study_name_from_id = _is_not_shown
    get_study_user_attrs = _is_not_shown
    get_study_system_attrs = _is_not_shown
    get_all_studies = _is_not_shown
    create_new_trial = _is_not_shown
    set_trial_param = _is_not_shown
    set_trial_state_values = _is_not_shown
    set_trial_intermediate_value = _is_not_shown
    set_trial_user_attr = _is_not_shown
    get_trial = _is_not_shown
