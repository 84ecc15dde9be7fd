import sqlite3
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest
from optuna.trial import TrialState

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.search.store.failures import MAX_FAILURES_IN_A_ROW, forgive_failures
from busi_search.search.store.locks import claim_lock
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.queue import claim_trial, put_back_lost
from busi_search.search.store.records import ERROR


def test_the_store_is_in_wal_mode(home: Home) -> None:
    open_storage(home)
    with sqlite3.connect(home.root / "optuna.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_claims_are_exact_however_many_ask(home: Home) -> None:
    study = optuna.create_study(storage=open_storage(home), study_name="s")
    study.enqueue_trial({"x": 1.0})

    def work(_: int) -> list[int]:
        storage = open_storage(home)
        own = optuna.load_study(study_name="s", storage=storage)
        numbers = []
        while (claim := claim_trial(own, storage, claim_lock(home, "s"), target=25)) is not None:
            trial = claim.trial
            trial.suggest_float("x", 0, 1)
            own.tell(trial, 0.0)
            numbers.append(trial.number)
        return numbers

    with ThreadPoolExecutor(4) as pool:
        numbers = sorted(number for part in pool.map(work, range(4)) for number in part)
    assert numbers == list(range(25))
    assert all(t.state == TrialState.COMPLETE for t in study.get_trials())


def test_an_orphan_goes_on_under_its_own_number_and_parameters(home: Home) -> None:
    storage = open_storage(home)
    study = optuna.create_study(storage=storage, study_name="s")
    lock = claim_lock(home, "s")
    claim = claim_trial(study, storage, lock, target=3)
    assert claim is not None
    lost = claim.trial
    value = lost.suggest_float("x", 0, 1)
    lost.set_user_attr("fold0", {"kept": True})
    lost.report(0.5, 0)
    assert put_back_lost(study, storage, lock) == [0]
    claim = claim_trial(study, storage, lock, target=3)
    assert claim is not None
    found = claim.trial
    assert found.number == 0
    assert found.suggest_float("x", 0, 1) == value
    assert found.user_attrs["fold0"] == {"kept": True}
    study.tell(found, 1.0)
    assert study.trials[0].intermediate_values == {0: 0.5}


def test_a_failed_trial_does_not_count(home: Home) -> None:
    storage = open_storage(home)
    study = optuna.create_study(storage=storage, study_name="s")
    lock = claim_lock(home, "s")
    claim = claim_trial(study, storage, lock, target=1)
    assert claim is not None
    study.tell(claim.trial, state=TrialState.FAIL)
    assert claim_trial(study, storage, lock, target=1) is not None
    assert claim_trial(study, storage, lock, target=1) is None


def test_nothing_is_claimed_while_all_fail(home: Home) -> None:
    storage = open_storage(home)
    study = optuna.create_study(storage=storage, study_name="s")
    lock = claim_lock(home, "s")
    for _ in range(MAX_FAILURES_IN_A_ROW):
        claim = claim_trial(study, storage, lock, target=1)
        assert claim is not None
        claim.trial.set_user_attr(ERROR, "ValueError: of no use")
        study.tell(claim.trial, state=TrialState.FAIL)
    assert claim_trial(study, storage, lock, target=1) is None
    forgive_failures(study)
    assert claim_trial(study, storage, lock, target=1) is not None


def test_a_damaged_store_is_said_to_be(home: Home) -> None:
    (home.root / "optuna.db").write_bytes(b"this is not a database" * 100)
    with pytest.raises(BusiSearchError, match="cannot be opened"):
        open_storage(home)


def test_an_unknown_study_lists_the_known(home: Home) -> None:
    optuna.create_study(storage=open_storage(home), study_name="mine")
    with pytest.raises(InputError, match="mine"):
        find_study(home, "yours")
