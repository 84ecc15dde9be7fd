"""How busy the machine is, on the study's run: by MLflow's own monitor, where a GPU trains."""

import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from busi_search.home import create_tracking_store, open_home
from busi_search.search.mlflow import system_metrics
from busi_search.search.mlflow.system_metrics import log_system_metrics


def test_they_arrive_on_the_run_go_on_after_an_interruption_and_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system_metrics, "SAMPLING_SECONDS", 0.2)
    home = open_home(tmp_path)
    create_tracking_store(home)
    client = MlflowClient(home.tracking_uri)
    run_id = client.create_run(client.create_experiment("study")).info.run_id

    def steps() -> list[int]:
        found = client.get_metric_history(run_id, "system/cpu_utilization_percentage")
        return [metric.step for metric in found]

    def wait_for(number: int) -> None:
        deadline = time.monotonic() + 45
        while len(steps()) < number:
            assert time.monotonic() < deadline, "no system metrics arrived"
            time.sleep(0.1)

    # There is no GPU here: the monitor logs what there is.
    for number in (2, 4):
        end = log_system_metrics(home.tracking_uri, run_id, "cuda:0")
        wait_for(number)
        end()
        end()
    before = steps()
    assert before == sorted(set(before)), "a step was written twice"
    log_system_metrics(home.tracking_uri, run_id, "cpu")()
    time.sleep(0.5)
    assert steps() == before


def test_a_store_that_is_away_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    log_system_metrics("http://127.0.0.1:9", "0" * 32, "cuda:0")()
