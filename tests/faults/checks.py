"""What must hold after any fault, however the search was treated."""

import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from busi_search.home import Home
from busi_search.search.store.fold_records import stored_folds, unfinished_fold
from busi_search.search.store.open import find_study

TRIAL_FILES = ["calibration.svg", "confusion.svg", "out_of_fold.npz", "roc.svg"]
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


def check_copy(home: Home, name: str, expected: int | list[int]) -> None:
    """Every trial is in MLflow once, whole; no run is left RUNNING, half-written or doubled."""
    wanted = list(range(expected)) if isinstance(expected, int) else expected
    client = MlflowClient(home.tracking_uri)
    experiment = client.get_experiment_by_name(name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=5000)
    kinds = Counter(run.data.tags["busi.kind"] for run in runs)
    assert kinds == {"study": 1, "trial": len(wanted)}
    numbers = [int(r.data.tags["optuna.number"]) for r in runs if "optuna.number" in r.data.tags]
    assert sorted(numbers) == sorted(wanted)
    study = find_study(home, name)
    trials = study.get_trials(deepcopy=False)
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.busi.logged"] == "yes"
        if run.data.tags["busi.kind"] == "study":
            best = client.get_metric_history(run.info.run_id, "best_cv_auc")
            assert max(m.value for m in best) == study.best_value
            assert len({m.value for m in best}) == len(best)
            continue
        trial = trials[int(run.data.tags["optuna.number"])]
        assert run.data.tags["optuna.state"] == trial.state.name
        if trial.state == TrialState.COMPLETE:
            assert run.data.metrics["cv_auc"] == pytest.approx(trial.value)
            assert [a.path for a in client.list_artifacts(run.info.run_id)] == TRIAL_FILES


def check_storage(home: Home, name: str, num_trials: int) -> None:
    """The study holds its trials, numbered without a gap, ended, with every fold they need."""
    trials = find_study(home, name).get_trials(deepcopy=False)
    assert [trial.number for trial in trials] == list(range(num_trials))
    assert Counter(trial.state in FINISHED for trial in trials) == {True: num_trials}
    folds_of = [set(stored_folds(trial, 20)) for trial in trials]
    num_folds = max(len(folds) for folds in folds_of)
    for trial, folds in zip(trials, folds_of, strict=True):
        # One after another, from the trial's own first fold on (by evidence) or from fold 0.
        in_turn = [(trial.number + turn) % num_folds for turn in range(len(folds))]
        assert folds in (set(in_turn), set(range(len(folds))))
        broken_off = unfinished_fold(trial)
        assert folds or broken_off is not None
        if broken_off is not None:
            assert trial.state == TrialState.PRUNED
            assert broken_off.fold == (trial.number + len(folds)) % num_folds
    with sqlite3.connect(home.root / "optuna.db") as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def watch_folds(database: Path) -> None:
    """Let SQLite itself note every write of a fold's result, whoever makes it."""
    with sqlite3.connect(database, timeout=60) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS fold_writes (trial_id INTEGER, key TEXT)")
        for event in ("INSERT", "UPDATE"):
            connection.execute(
                f"CREATE TRIGGER IF NOT EXISTS fold_{event} AFTER {event} "
                "ON trial_system_attributes WHEN NEW.key GLOB 'busi:fold[0-9]*' "
                "BEGIN INSERT INTO fold_writes VALUES (NEW.trial_id, NEW.key); END"
            )


def num_repeated_folds(database: Path) -> tuple[int, int]:
    """Return how many folds were stored, and how many of them more than once."""
    with sqlite3.connect(database, timeout=60) as connection:
        rows = connection.execute(
            "SELECT COUNT(*) FROM fold_writes GROUP BY trial_id, key"
        ).fetchall()
    return len(rows), sum(count > 1 for (count,) in rows)
