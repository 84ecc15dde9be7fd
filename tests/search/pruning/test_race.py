"""A trial against the best finished one: what is said at which look and fold."""

import numpy as np
import optuna
import pytest
from optuna.storages import InMemoryStorage

from busi_search.home import Home
from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.prepare import prepare_study
from busi_search.search.pruning.race import Incumbents, Race
from busi_search.search.store.fold_records import encode_fold, fold_key
from busi_search.search.store.queue import Claim
from busi_search.search.store.records import HYPERPARAMETERS
from busi_search.spec import Hyperparameters
from busi_search.training.metrics import compute_metrics, softmax
from tests.conftest import TINY


def _context(home: Home, *overrides: str) -> StudyContext:
    chosen = *TINY, "epochs=8", "recipes=[]", "pruner='evidence'", *overrides
    return prepare_study("quickstart", home=home, overrides=chosen, device="cpu")


def _result(context: StudyContext, index: int, skill: float) -> FoldResult:
    truth = context.development.labels[context.partition.folds[index].validation]
    logits = np.random.default_rng(index).normal(size=(len(truth), 3))
    logits[np.arange(len(truth)), truth] += skill
    rows = np.log(softmax(logits)).astype(np.float32)
    figures = compute_metrics(np.exp(rows.astype(float)), truth)
    return FoldResult(index, rows, figures, (0.0,) * 8, (2, 4, 6, 8), (0.7, 0.8, 0.9, 0.9), 0, 0.0)


class Course:
    """A study in memory on which trials are finished at will."""

    def __init__(self, context: StudyContext) -> None:
        self.context, self.storage = context, InMemoryStorage()
        self.study = optuna.create_study(
            storage=self.storage, directions=context.spec.study.directions
        )
        self.incumbents = Incumbents(context, self.study)

    def claim(self, **attributes: object) -> Claim:
        study_id = self.storage.get_study_id_from_name(self.study.study_name)
        trial_id = self.storage.create_new_trial(study_id)
        for key, value in attributes.items():
            self.storage.set_trial_user_attr(trial_id, key, value)
        return Claim(optuna.Trial(self.study, trial_id), self.storage, trial_id, worker="")

    def finish(self, value: float, *costs: float, skill: float = 2.0, **attributes: object) -> None:
        folds = {fold_key(i): encode_fold(_result(self.context, i, skill)) for i in range(3)}
        meant = {HYPERPARAMETERS: Hyperparameters(epochs=8).model_dump()}
        self.study.tell(self.claim(**folds, **meant, **attributes).trial, [value, *costs])

    def race(self, **attributes: object) -> Race:
        return Race(self.context, self.incumbents, self.claim(**attributes))


def _look(epoch: int, *val_auc: float) -> Look:
    return Look(0, epoch, 8, val_auc)


def test_without_a_finished_trial_nobody_is_given_up(home: Home) -> None:
    race = Course(_context(home)).race()
    assert race.look(_look(4, 0.2, 0.2)) is None
    assert race.fold(_result(_context(home), 0, 0.0)) is None


def test_a_fold_is_given_up_at_the_first_look_that_may_end_it(home: Home) -> None:
    course = Course(_context(home))
    course.finish(0.9)
    race = course.race()
    assert race.look(_look(2, 0.2)) is None
    assert race.look(_look(4, 0.2, 0.85)) is None
    assert race.look(_look(4, 0.2, 0.77)) == (
        "in epoch 4 of 8 of fold 0, AUC 0.770 so far: at most 0.030 below trial 0 "
        "(standard error 0.021), overtaking index 0.078, at least 0.15 is needed"
    )


def test_a_known_system_gets_a_whole_fold(home: Home) -> None:
    course = Course(_context(home))
    course.finish(0.9)
    race = course.race(recipe="known")
    assert race.look(_look(4, 0.2, 0.3)) is None
    assert race.fold(_result(course.context, 1, 2.0)) is None
    reason = race.look(_look(4, 0.2, 0.3))
    assert reason is not None
    assert "of fold 0, AUC" in reason


def test_a_rival_that_is_beaten_within_a_fold_stays_the_rival_until_its_end(home: Home) -> None:
    course = Course(_context(home))
    course.finish(0.9)
    race = course.race()
    assert race.look(_look(4, 0.2, 0.85)) is None
    course.finish(0.95)
    reason = race.look(_look(6, 0.2, 0.3, 0.3))
    assert reason is not None
    assert "trial 0 (" in reason
    reason = race.fold(_result(course.context, 0, 0.0))
    assert reason is not None
    assert "after 1 of 3 folds" in reason
    assert "trial 2 (" in reason


def test_the_last_fold_gives_nothing_up(home: Home) -> None:
    course = Course(_context(home))
    course.finish(0.9)
    race = course.race()
    reasons = [race.fold(_result(course.context, fold, 0.0)) for fold in range(3)]
    assert reasons[0] is not None
    assert reasons[1] is not None
    assert reasons[2] is None


@pytest.mark.parametrize("pruner", ["none", "median"])
def test_other_pruners_know_no_race(pruner: str, home: Home) -> None:
    course = Course(_context(home, f"pruner='{pruner}'"))
    course.finish(0.9)
    race = course.race()
    assert race.look(_look(4, 0.2, 0.2)) is None
    assert race.fold(_result(course.context, 0, 0.0)) is None


def test_only_who_costs_no_more_is_a_rival(home: Home) -> None:
    course = Course(_context(home, "objective=['cv_auc','num_parameters']"))
    course.finish(0.9, 1000, num_parameters=1000)
    bad = _result(course.context, 0, 0.0)
    assert course.race(num_parameters=999).fold(bad) is None
    assert course.race(num_parameters=1000).fold(bad) is not None
    # Within a fold the cost may not be known yet.
    assert course.race().look(_look(4, 0.2, 0.2)) is None


def test_two_scores_rule_nothing_out(home: Home) -> None:
    course = Course(_context(home, "objective=['cv_auc','cv_f1']"))
    course.finish(0.9, 0.9)
    assert course.race().fold(_result(course.context, 0, 0.0)) is None
