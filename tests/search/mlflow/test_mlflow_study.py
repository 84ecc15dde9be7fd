"""What a study's trials look like in MLflow."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from busi_search.home import open_home
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.mlflow.study import MlflowStudy
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.store.fold_records import encode_fold, fold_key, stored_folds
from busi_search.search.store.open import find_study
from tests.conftest import TINY


def test_curves_of_any_length_arrive_whole(tmp_path: Path) -> None:
    """MLflow takes a thousand entries at once, those of all kinds counted together."""
    num_epochs = 700
    home = open_home(tmp_path)
    context = prepare_study("quickstart", home=home, overrides=(*TINY, "epochs=1"), device="cpu")
    list(run_search(context, InlineExecutor(), Tracker(context), num_trials=1, num_workers=1))
    study = find_study(home, context.name)
    trial = deepcopy(study.trials[0])
    trial.number = 1
    for index, fold in stored_folds(trial, 3).items():
        losses = tuple(1 / epoch for epoch in range(1, num_epochs + 1))
        trial.user_attrs[fold_key(index)] = encode_fold(replace(fold, train_loss=losses))
    there = MlflowStudy(context, study)
    there.log_trial(trial)
    assert MlflowStudy(context, study).logged == {0, 1}
    client = MlflowClient(home.tracking_uri)
    (run,) = client.search_runs([there.experiment_id], "tags.`optuna.number` = '1'")
    for index in range(3):
        steps = {
            m.step for m in client.get_metric_history(run.info.run_id, f"train_loss/fold{index}")
        }
        assert steps == set(range(1, num_epochs + 1))
    assert run.data.metrics["cv_auc"] == pytest.approx(trial.value)
