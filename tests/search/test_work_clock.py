"""What is done once for many trials is told apart from what each trial takes."""

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from busi_search.data.progress import counted, listening
from busi_search.search import work_clock
from busi_search.search.expected_cost import Costs, kind_of, trial_cost
from busi_search.search.fold_result import Look
from busi_search.search.store.fold_records import fold_key
from busi_search.search.store.records import EPOCHS, HYPERPARAMETERS, WORK, Work, stored_work
from busi_search.search.work_clock import WorkClock
from busi_search.spec import Hyperparameters

FROZEN = {"architecture": "efficientnet_lite0", "head": "logistic"}
NUM_FOLDS = 5


class _Time(SimpleNamespace):
    """A clock that is put forward by hand."""

    now: float = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> _Time:
    time = _Time()
    monkeypatch.setattr(work_clock, "time", time)
    return time


def a_trial(
    size: int, *, first: float, others: float, folds: int = NUM_FOLDS, **work: Any
) -> optuna.trial.FrozenTrial:
    settings = Hyperparameters(**FROZEN, image_size_pixels=size)  # type: ignore[arg-type]
    seconds = [first, *[others] * (folds - 1)][:folds]
    attributes: dict[str, Any] = {HYPERPARAMETERS: settings.model_dump()}
    attributes |= {fold_key(fold): {"seconds": spent} for fold, spent in enumerate(seconds)}
    if work:
        attributes[WORK] = work
    state = TrialState.COMPLETE if folds == NUM_FOLDS else TrialState.RUNNING
    value = 0.8 if state == TrialState.COMPLETE else None
    return create_trial(state=state, value=value, user_attrs=attributes)


def test_stored_features_and_epochs_are_told_while_a_trial_runs(time: _Time) -> None:
    study = optuna.create_study()
    trial = study.ask()
    clock = WorkClock(trial)
    seen = []
    with listening(clock.shared_part_done):
        for _ in counted(range(4), "storing features", 4):
            time.now += 5
            seen.append(stored_work(study.get_trials()[0]))
    # At once, and then part by part.
    assert seen[0] == Work("storing features", 0, 4, 0.0)
    assert seen[2] == Work("storing features", 2, 4, 10.0, 10.0)
    time.now += 6
    clock.epochs_done(Look(fold=2, epoch=3, epochs=9, val_auc=(0.5,)))
    assert stored_work(study.get_trials()[0]) == Work(EPOCHS, 3, 9, 6.0, 20.0, fold=2)
    clock.close()
    kept = stored_work(study.get_trials()[0])
    assert kept is not None
    assert kept.shared_seconds == 20.0


def test_a_quick_fold_writes_nothing(time: _Time) -> None:
    study = optuna.create_study()
    clock = WorkClock(study.ask())
    time.now += work_clock.SECONDS_BETWEEN_WRITES / 2
    clock.epochs_done(Look(fold=0, epoch=1, epochs=2, val_auc=(0.5,)))
    clock.close()
    assert stored_work(study.get_trials()[0]) is None


def test_a_trial_to_come_does_not_pay_for_stored_features_again() -> None:
    shared = {"phase": EPOCHS, "done": 0, "total": 0, "seconds": 0.0}
    trials = [
        a_trial(160, first=41.0, others=0.5, **shared, shared_seconds=40.0),
        a_trial(160, first=1.0, others=0.5),
    ]
    costs = Costs().with_these(trials, NUM_FOLDS)
    assert costs.spent() == pytest.approx(43 + 3)
    # 38 trials of 3 s, not of 23 s as on average so far.
    assert costs.left(38, NUM_FOLDS) == pytest.approx(38 * 3.0)
    # Another size of images would have to be stored once more, of 4 times as many pixels.
    kinds = [
        kind_of(Hyperparameters(**FROZEN, image_size_pixels=size).model_dump())  # type: ignore[arg-type]
        for size in (160, 320)
    ]
    assert costs.left(38, NUM_FOLDS, kinds) == pytest.approx(38 * 3.0 + 160.0, rel=0.01)


def test_epochs_of_the_first_fold_tell_the_time() -> None:
    work = {"phase": EPOCHS, "done": 3, "total": 12, "seconds": 15.0, "fold": 0}
    running = a_trial(64, first=0.0, others=0.0, folds=0, **work)
    costs = Costs().with_these([running], NUM_FOLDS)
    assert costs.can_tell
    # A fold is 60 s: this trial has 285 s to go, the next one 300 s.
    assert costs.left(2, NUM_FOLDS) == pytest.approx(285 + 300)
    assert trial_cost(running, NUM_FOLDS).work == Work(**cast(dict[str, Any], work))


def test_before_anything_is_finished_nothing_is_told() -> None:
    work = {"phase": "storing features", "done": 2, "total": 5, "seconds": 15.0}
    storing = a_trial(64, first=0.0, others=0.0, folds=0, **work)
    costs = Costs().with_these([storing], NUM_FOLDS)
    assert not costs.can_tell
    assert np.isclose(trial_cost(storing, NUM_FOLDS).shared_left, 15 / 2 * 3)
