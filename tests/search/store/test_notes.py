"""Notes are what optuna-dashboard reads, and folds are what it does not show."""

import json

import optuna
import optuna_dashboard
import pytest
from optuna.trial import TrialState

from busi_search.home import Home
from busi_search.report.study_result import StudyResult
from busi_search.search.mlflow.lookup import OUTCOME
from busi_search.search.mlflow.trial import trial_tags
from busi_search.search.store.fold_records import (
    encode_fold,
    fold_key,
    fold_scores,
    known_folds,
    stored_folds,
    stored_indices,
)
from busi_search.search.store.notes import write_note
from busi_search.search.store.open import find_study
from busi_search.search.store.records import HYPERPARAMETERS


def test_the_dashboard_reads_the_note() -> None:
    storage = optuna.storages.InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="noted")
    trial = study.ask()
    study_id = storage.get_study_id_from_name("noted")
    trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
    write_note(storage, "noted", trial_id, "Stopped early: too bad")
    assert optuna_dashboard.get_note(trial) == "Stopped early: too bad"
    write_note(storage, "noted", trial_id, "x" * 5000)
    assert set(optuna_dashboard.get_note(trial)) == {"x"}


def test_folds_are_kept_out_of_sight_and_read_as_in_old_studies(tiny_result: StudyResult) -> None:
    context = tiny_result.context
    study = find_study(context.home, context.name)
    trial = next(t for t in study.trials if t.state == TrialState.COMPLETE)
    assert not [key for key in trial.user_attrs if key.startswith("fold")]
    assert all(len(json.dumps(value)) < 3000 for value in trial.user_attrs.values())
    assert study.metric_names == list(context.spec.study.objectives)
    num_folds = len(context.partition.folds)
    found = stored_folds(trial, num_folds)
    assert stored_indices(trial) == list(range(num_folds)) == sorted(found)
    scores = fold_scores(trial, "auc")
    assert scores == {index: result.metrics["auc"] for index, result in found.items()}
    # The curve ends at the value, whatever fold the trial began with.
    steps = trial.intermediate_values
    assert sorted(steps) == list(range(num_folds))
    assert steps[num_folds - 1] == pytest.approx(trial.value)
    old = optuna.trial.create_trial(
        value=trial.value,
        user_attrs={
            HYPERPARAMETERS: trial.user_attrs[HYPERPARAMETERS],
            **{fold_key(index): encode_fold(result) for index, result in found.items()},
        },
    )
    assert fold_scores(old, "auc") == scores
    assert [r.fold for r in known_folds(old)] == [r.fold for r in known_folds(trial)]


def test_what_became_of_a_trial_is_said_in_a_tag(tiny_result: StudyResult, home: Home) -> None:
    context = tiny_result.context
    attributes = {HYPERPARAMETERS: {"epochs": 3}, "prune_reason": "the mean is too low"}
    pruned = optuna.trial.create_trial(state=TrialState.PRUNED, user_attrs=attributes)
    tags = trial_tags(context, pruned, [], 0.8765)
    assert tags[OUTCOME] == "stopped early within the first of 3 folds, expected cv_auc 0.876"
    assert "the mean is too low" in tags["mlflow.note.content"]
    failed = optuna.trial.create_trial(
        state=TrialState.FAIL, user_attrs={"error": "Traceback\nValueError: no"}
    )
    assert trial_tags(context, failed, [])[OUTCOME] == "failed: ValueError: no"
