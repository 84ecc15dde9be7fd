"""Runs of trials: shown while they run, gone on with after a kill, and with pictures."""

import copy
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

from busi_search.home import open_home
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.mlflow.pictures import trial_pictures
from busi_search.search.mlflow.study import MlflowStudy
from busi_search.search.mlflow.system_metrics import SystemMetrics
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.prepare import prepare_study
from busi_search.search.store.open import find_study
from tests.conftest import TINY


def test_a_trial_is_a_run_while_it_runs_and_the_same_run_in_the_end(tmp_path: Path) -> None:
    home = open_home(tmp_path)
    context = prepare_study("quickstart", home=home, overrides=(*TINY, "epochs=2"), device="cpu")
    list(run_search(context, InlineExecutor(), Tracker(context), num_trials=1, num_workers=1))
    study = find_study(home, context.name)
    ended = copy.deepcopy(study.trials[0])
    ended.number = 7
    under_way = copy.deepcopy(ended)
    under_way.state, under_way.values, under_way.datetime_complete = TrialState.RUNNING, None, None
    del under_way.system_attrs["busi:fold2"]

    there = MlflowStudy(context, study)
    assert there.trials.has_news(under_way)
    there.trials.show_running(under_way)
    assert not there.trials.has_news(under_way)
    client = MlflowClient(home.tracking_uri)

    def only_run() -> tuple[str, str, dict[str, str], dict[str, float]]:
        (run,) = client.search_runs([there.experiment_id], "tags.`optuna.number` = '7'")
        return run.info.run_id, run.info.status, run.data.tags, run.data.metrics

    run_id, status, tags, metrics = only_run()
    assert status == "RUNNING"
    assert tags["busi.outcome"] == "running, 2 of 3 folds finished"
    assert tags["mlflow.user"]
    assert {"train_loss/fold0", "train_loss/fold1"} <= metrics.keys()
    assert not {"train_loss/fold2", "cv_auc"} & metrics.keys()

    there.write_state("interrupted")
    assert only_run()[1] == "SCHEDULED"
    # Another process, after a kill: the same run is filled, and nothing stands in it twice.
    again = MlflowStudy(context, study)
    assert again.logged == {0}
    again.log_trial(ended)
    same_id, status, tags, metrics = only_run()
    assert (same_id, status) == (run_id, "FINISHED")
    assert tags["busi.outcome"] == "finished"
    assert metrics["cv_auc"] == pytest.approx(ended.value)
    for fold in range(3):
        points = client.get_metric_history(run_id, f"train_loss/fold{fold}")
        assert sorted(point.step for point in points) == [1, 2]
    assert MlflowStudy(context, study).logged == {0, 7}
    pictures = {item.path for item in client.list_artifacts(run_id)}
    assert {"roc.svg", "confusion.svg", "calibration.svg"} < pictures
    # A better trial with a lower number ends later: MLflow shows its value all the same.
    better = copy.deepcopy(ended)
    better.number, better.values = 3, [1.0]
    again.log_trial(better)
    study_run = client.get_run(there.run_id)
    assert study_run.data.metrics["best_cv_auc"] == 1.0
    system = SystemMetrics()
    assert not system.is_due()
    again.log_system(system)
    metrics = client.get_run(there.run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100 * 1024
    assert metrics["system/system_memory_usage_percentage"] > 0


@pytest.mark.parametrize("class_names", [["benign", "<b>&"], ["benign", "malignant", "normal"]])
def test_pictures_are_svg_and_show_what_was_predicted(class_names: list[str]) -> None:
    num_classes = len(class_names)
    labels = np.repeat(np.arange(num_classes), 20)
    probabilities = np.full((len(labels), num_classes), 0.1)
    probabilities[np.arange(len(labels)), labels] = 1 - 0.1 * (num_classes - 1)
    found = trial_pictures(
        probabilities, labels, class_names=class_names, positive=1, whose="trial 7"
    )
    texts = {
        name: [node.text or "" for node in ET.fromstring(svg).iter() if node.tag.endswith("text")]
        for name, svg in found.items()
    }
    assert f"{class_names[1]}: AUC 1.000, pooled over the folds" in texts["roc.svg"]
    assert texts["confusion.svg"].count("20") == num_classes
    assert any(class_names[1] in text for text in texts["calibration.svg"])
