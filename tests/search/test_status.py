from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from busi_search.search.status import study_status
from busi_search.search.store.records import ERROR, WORKER
from busi_search.search.store.study_record import StudyRecord

NOON = datetime(2026, 1, 1, 12)


def a_trial(
    minutes: float, state: TrialState = TrialState.COMPLETE, **attributes: str
) -> FrozenTrial:
    trial = create_trial(
        state=state,
        value=0.5 if state == TrialState.COMPLETE else None,
        user_attrs=attributes,
    )
    trial.datetime_start = NOON
    trial.datetime_complete = NOON + timedelta(minutes=minutes) if state.is_finished() else None
    return trial


def a_study(*trials: FrozenTrial, target: int) -> optuna.Study:
    study = optuna.create_study(direction="maximize")
    StudyRecord(study).set_target(target)
    study.add_trials(trials)
    return study


def test_the_time_left_is_that_of_the_trials_to_come() -> None:
    at_work = a_trial(0, TrialState.RUNNING, **{WORKER: "here/1"})
    # The last was left by a search that stopped, and taken up a day later.
    finished = [a_trial(1), a_trial(1), a_trial(4, TrialState.PRUNED), a_trial(24 * 60)]
    status = study_status(a_study(*finished, at_work, target=10))
    median = 2.5
    expected = 6 * (1 + 1 + 4 + 5 * median) / 4
    assert status.remaining_seconds == pytest.approx(60 * expected)
    assert status.target == 10


def test_nobody_at_work_or_nothing_to_do_leaves_no_time_to_tell() -> None:
    at_work = a_trial(0, TrialState.RUNNING, **{WORKER: "here/1"})
    assert study_status(a_study(a_trial(1), target=10)).remaining_seconds is None
    assert study_status(a_study(a_trial(1), at_work, target=1)).remaining_seconds is None
    assert study_status(a_study(at_work, target=10)).remaining_seconds is None


def test_the_last_failure_is_named() -> None:
    traceback = "Traceback (most recent call last):\n  …\nValueError: too small"
    failed = a_trial(1, TrialState.FAIL, **{ERROR: traceback})
    status = study_status(a_study(a_trial(1), failed, target=2))
    assert status.last_failure == "trial 1: ValueError: too small"
    assert study_status(a_study(a_trial(1), target=2)).last_failure is None
