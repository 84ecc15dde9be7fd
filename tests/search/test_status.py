import subprocess
import sys
from datetime import datetime, timedelta

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from busi_search.search.progress import REPORT_SECONDS
from busi_search.search.status import study_status
from busi_search.search.store.connection import grace_seconds
from busi_search.search.store.records import ERROR, HEARTBEAT, WORKER
from busi_search.search.store.study_record import StudyRecord
from busi_search.search.store.workers import this_machine, this_worker

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
    assert status.remaining_seconds == pytest.approx(60 * expected + REPORT_SECONDS)
    assert status.target == 10


def test_nobody_at_work_or_nothing_to_do_leaves_no_time_to_tell() -> None:
    at_work = a_trial(0, TrialState.RUNNING, **{WORKER: "here/1"})
    assert study_status(a_study(a_trial(1), target=10)).remaining_seconds is None
    assert study_status(a_study(a_trial(1), at_work, target=1)).remaining_seconds is None
    assert study_status(a_study(at_work, target=10)).remaining_seconds is None


def test_a_worker_that_is_gone_does_not_work() -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead = a_trial(0, TrialState.RUNNING, **{WORKER: f"{this_machine()}/{gone.pid}.1"})
    alive = a_trial(0, TrialState.RUNNING, **{WORKER: this_worker()})
    elsewhere = a_trial(0, TrialState.RUNNING, **{WORKER: "another:1/77.1", HEARTBEAT: "1000"})
    study = a_study(a_trial(1), dead, alive, elsewhere, target=10)
    status = study_status(study, now=1010.0)
    assert status.interrupted == [1]
    assert sorted(status.workers.values()) == [2, 3]
    # Another machine's worker counts as gone when nothing was heard of it for long.
    assert study_status(study, now=1000 + 10 * grace_seconds()).interrupted == [1, 3]
    assert study_status(a_study(a_trial(1), dead, target=10)).remaining_seconds is None


def test_the_last_failure_is_named() -> None:
    traceback = "Traceback (most recent call last):\n  …\nValueError: too small"
    failed = a_trial(1, TrialState.FAIL, **{ERROR: traceback})
    status = study_status(a_study(a_trial(1), failed, target=2))
    assert status.last_failure == "trial 1: ValueError: too small"
    assert study_status(a_study(a_trial(1), target=2)).last_failure is None
