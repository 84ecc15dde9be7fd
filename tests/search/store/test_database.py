"""Calls to a server, without one: which are repeated, and for how long."""

import inspect
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import TrialState, create_trial
from sqlalchemy.exc import OperationalError

from busi_search.search.store import connection
from busi_search.search.store.connection import connection_failed, persistently
from busi_search.search.store.database import RetryingStorage
from busi_search.search.store.heartbeat import is_silent
from busi_search.search.store.records import HEARTBEAT


def away() -> OperationalError:
    return OperationalError("SELECT 1", {}, Exception("terminating connection"))


@pytest.fixture
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "FIRST_PAUSE_SECONDS", 0.001)


@pytest.fixture
def storage(tmp_path: Path, _no_pauses: None) -> RetryingStorage:
    return RetryingStorage(RDBStorage(f"sqlite:///{tmp_path / 'optuna.db'}"))


def failing_at_first(times: int, error: BaseException) -> Callable[[], str]:
    left = [error] * times

    def action() -> str:
        if left:
            raise left.pop()
        return "done"

    return action


@pytest.mark.usefixtures("_no_pauses")
def test_a_server_that_is_away_is_asked_again() -> None:
    forgotten: list[None] = []
    answer = persistently(failing_at_first(3, away()), lambda: forgotten.append(None))
    assert (answer, len(forgotten)) == ("done", 3)


def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "retry_seconds", lambda: 0.3)
    with pytest.raises(OperationalError):
        persistently(failing_at_first(99, away()))


@pytest.mark.usefixtures("_no_pauses")
@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_what_is_no_outage_is_said_at_once(error: BaseException) -> None:
    with pytest.raises(type(error)):
        persistently(failing_at_first(1, error))


def test_an_interrupt_in_an_outage_is_no_outage() -> None:
    interrupt = KeyboardInterrupt()
    interrupt.__context__ = away()
    assert not connection_failed(interrupt)
    hidden = RuntimeError("updated_state")
    hidden.__context__ = away()
    assert connection_failed(hidden)


def test_every_call_of_a_storage_is_repeated() -> None:
    public = {
        name
        for name, _ in inspect.getmembers(BaseStorage, inspect.isfunction)
        if not name.startswith("_")
    }
    # It looks at its arguments only.
    assert public - vars(RetryingStorage).keys() == {"check_trial_is_updatable"}


def test_a_study_on_a_storage_that_repeats_is_as_on_any(
    storage: RetryingStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = optuna.create_study(storage=storage, study_name="s")
    kept, failures = storage.within, [away(), away()]

    class Unreliable:
        def __getattr__(self, name: str) -> object:
            def call(*args: object, **options: object) -> object:
                if failures:
                    raise failures.pop()
                return getattr(kept, name)(*args, **options)

            return call

    monkeypatch.setattr(storage, "within", Unreliable())
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    trial.report(0.5, 0)
    study.tell(trial, 1.0)
    assert not failures
    assert study.best_trial.number == 0
    assert [t.state for t in study.get_trials()] == [TrialState.COMPLETE]


def test_a_worker_is_silent_after_the_time_of_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BUSI_SEARCH_GRACE_SECONDS", "30")
    trial = create_trial(state=TrialState.RUNNING, user_attrs={HEARTBEAT: 1000.0})
    assert not is_silent(trial, 1030.0)
    assert is_silent(trial, 1030.1)
    # Nothing was ever heard: what is counted from is set first.
    assert not is_silent(create_trial(state=TrialState.RUNNING), 1e9)
