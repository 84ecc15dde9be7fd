"""The storage on a database server: exact claims, outages, workers of other machines."""

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session, scoped_session

from busi_search.data.ledger import (
    ledger_path,
    make_entry,
    mendings,
    num_openings,
    read_ledger,
    write_entries,
)
from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home, open_home
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store import heartbeat as heartbeats
from busi_search.search.store.heartbeat import heartbeat
from busi_search.search.store.locks import claim_lock, only_driver
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.queue import claim_trial, put_back_lost
from busi_search.search.store.records import WORKER, last_heartbeat
from busi_search.search.store.workers import this_worker
from tests.ports import free_port
from tests.topology.postgres import Postgres

pytestmark = pytest.mark.usefixtures("_short_grace")


@pytest.fixture
def shared(tmp_path: Path, database: str) -> Home:
    return open_home(tmp_path / "home", storage=database)


def test_four_who_come_first_at_once_make_the_tables_once(shared: Home) -> None:
    with ThreadPoolExecutor(4) as pool:
        for storage in pool.map(lambda _: open_storage(shared), range(4)):
            assert optuna.get_all_study_names(storage) == []


def test_claims_are_exact_over_the_network(shared: Home) -> None:
    optuna.create_study(storage=open_storage(shared), study_name="s").enqueue_trial({"x": 1.0})

    def work(index: int) -> list[int]:
        storage, lock = open_storage(shared), claim_lock(shared, "s")
        own = optuna.load_study(study_name="s", storage=storage)
        numbers = []
        while (
            claim := claim_trial(own, storage, lock, target=25, worker=f"machine/{index}")
        ) is not None:
            trial = claim.trial
            trial.suggest_float("x", 0, 1)
            own.tell(trial, 0.0)
            numbers.append(trial.number)
        return numbers

    with ThreadPoolExecutor(4) as pool:
        numbers = sorted(number for part in pool.map(work, range(4)) for number in part)
    assert numbers == list(range(25))


def test_two_machines_at_once_count_openings_in_one_ledger(
    shared: Home, database: str, tmp_path: Path
) -> None:
    optuna.create_study(storage=open_storage(shared), study_name="s")
    other = open_home(tmp_path / "other", storage=database)

    def open_test(index: int) -> int:
        home = (shared, other)[index % 2]
        return int(SealLedger(home, "s").append("opened", {"version": str(index)})["index"])

    with ThreadPoolExecutor(4) as pool:
        assert sorted(pool.map(open_test, range(8))) == list(range(8))
    # The file of either machine lacks what the other added last, and that is no damage.
    ledger_path(other, "s").unlink()
    entries = SealLedger(other, "s").entries()
    assert [num_openings(entries), mendings(entries)] == [8, []]
    for home in (shared, other):
        assert SealLedger(home, "s").entries() == entries == read_ledger(ledger_path(home, "s"))
    forged = [make_entry([], "opened", {})]
    ledger_path(other, "s").unlink()
    write_entries(ledger_path(other, "s"), forged)
    with pytest.raises(BusiSearchError, match="contradict each other"):
        SealLedger(other, "s").append("opened", {})


def test_a_search_outlives_a_restart_of_its_database(shared: Home, postgres: Postgres) -> None:
    storage = open_storage(shared)
    study = optuna.create_study(storage=storage, study_name="s")
    lock = claim_lock(shared, "s")
    ended = threading.Event()
    told: list[int] = []

    def work() -> None:
        while not ended.is_set():
            claim = claim_trial(study, storage, lock, target=10_000, worker=this_worker())
            assert claim is not None
            trial = claim.trial
            trial.suggest_float("x", 0, 1)
            trial.report(0.5, 0)
            study.tell(trial, 0.0)
            told.append(trial.number)

    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)

        def wait_for_more() -> None:
            wanted, deadline = len(told) + 4, time.monotonic() + 120
            while len(told) < wanted:
                assert not working.done(), working.exception()
                assert time.monotonic() < deadline, "the search did not go on"
                time.sleep(0.05)

        try:
            for _ in range(3):
                wait_for_more()
                postgres.restart()
            wait_for_more()
        finally:
            ended.set()
        working.result()
    trials = study.get_trials()
    assert [trial.number for trial in trials] == list(range(len(trials)))
    # Created twice at worst, when the answer was lost: nobody owns such a trial, and it goes back.
    left = [trial for trial in trials if trial.state != TrialState.COMPLETE]
    assert all(WORKER not in trial.user_attrs for trial in left)
    assert put_back_lost(study, storage, lock) == [trial.number for trial in left]
    assert len(trials) - len(left) > 10


@pytest.mark.slow
def test_a_trial_of_another_machine_goes_back_when_its_heart_stops(shared: Home) -> None:
    storage = open_storage(shared)
    study = optuna.create_study(storage=storage, study_name="s")
    lock = claim_lock(shared, "s")
    silent = claim_trial(study, storage, lock, target=3, worker="elsewhere/1")
    beating = claim_trial(study, storage, lock, target=3, worker="elsewhere/2")
    assert silent is not None
    assert beating is not None
    with heartbeat(storage, beating.trial_id):
        assert put_back_lost(study, storage, lock) == []
        deadline = time.monotonic() + 120
        while not (back := put_back_lost(study, storage, lock)):
            assert time.monotonic() < deadline, "a silent worker's trial was never put back"
            time.sleep(0.5)
        assert back == [silent.trial.number]
        again = claim_trial(study, storage, lock, target=3, worker="elsewhere/3")
        assert again is not None
        assert again.trial.number == silent.trial.number
        # Its new owner was heard of before anybody could miss the old one.
        assert put_back_lost(study, storage, lock) == []


def test_a_trial_without_any_sign_of_life_is_first_listened_to(
    shared: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers of earlier versions kept their heartbeats elsewhere."""
    storage = open_storage(shared)
    study = optuna.create_study(storage=storage, study_name="s")
    old = study.ask()
    old.set_user_attr(WORKER, "elsewhere/1")
    lock = claim_lock(shared, "s")
    assert put_back_lost(study, storage, lock) == []
    assert last_heartbeat(study.get_trials()[0]) is not None
    assert put_back_lost(study, storage, lock) == []
    monkeypatch.setattr(heartbeats, "grace_seconds", lambda: -1.0)
    assert put_back_lost(study, storage, lock) == [old.number]


def test_only_one_driver_on_a_storage(shared: Home, tmp_path: Path) -> None:
    elsewhere = open_home(tmp_path / "other", storage=shared.storage_url)
    with (
        only_driver(shared, "s"),
        pytest.raises(InputError, match="another machine"),
        only_driver(elsewhere, "s"),
    ):
        pass
    with only_driver(elsewhere, "s"):
        pass


def test_a_study_asked_for_again_and_again_takes_no_more_connections(
    shared: Home, postgres: Postgres
) -> None:
    optuna.create_study(storage=open_storage(shared), study_name="s")
    gc.disable()
    try:
        for _ in range(10):
            assert find_study(shared, "s").get_trials() == []
    finally:
        gc.enable()
    # The last lock may be on its way out.
    assert postgres.num_connections(shared.storage_url) <= 3


def test_a_server_that_is_not_there_is_said_at_once(tmp_path: Path) -> None:
    url = f"postgresql://me:secret@127.0.0.1:{free_port()}/optuna"
    started = time.monotonic()
    with pytest.raises(BusiSearchError, match="cannot be opened") as caught:
        open_storage(open_home(tmp_path / "home", storage=url))
    assert time.monotonic() - started < 60
    assert "secret" not in str(caught.value)


def test_another_kind_of_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="PostgreSQL"):
        open_storage(open_home(tmp_path / "home", storage="mysql://me@db/optuna"))


def test_a_session_that_cannot_even_be_closed_is_forgotten(
    shared: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(shared)
    study_id = storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "s")
    commit, remove = Session.commit, scoped_session.remove
    faults = ["commit", "remove"]

    def fault(name: str) -> None:
        if name in faults:
            faults.remove(name)
            raise OperationalError(name, {}, Exception("terminating connection"))

    def broken_commit(session: Session) -> None:
        fault("commit")
        commit(session)

    def broken_remove(sessions: "scoped_session[Session]") -> None:
        fault("remove")
        remove(sessions)

    monkeypatch.setattr(Session, "commit", broken_commit)
    monkeypatch.setattr(scoped_session, "remove", broken_remove)
    storage.set_study_user_attr(study_id, "key", 1)
    assert not faults
    monkeypatch.undo()
    assert storage.get_study_user_attrs(study_id) == {"key": 1}
