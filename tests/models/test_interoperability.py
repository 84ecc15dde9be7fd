"""Other people's programs on what a search leaves: a model server, a dashboard, an ONNX runtime."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

import busi_search as bs
from busi_search.errors import InputError
from busi_search.models.loading import load_champion
from busi_search.report.study_result import StudyResult
from tests.ports import free_port

BINARIES = Path(sys.executable).parent


def ask(address: str, body: Any = None) -> Any:
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        address, data=content, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read().strip() or b"null")


@contextmanager
def started(words: list[str], wait_for: str, log: Path, **environment: str) -> Iterator[None]:
    path = f"{BINARIES}{os.pathsep}{os.environ['PATH']}"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            words, stdout=stream, stderr=stream, start_new_session=True,
            env={**os.environ, "PATH": path, **environment},
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 300
        while True:
            try:
                ask(wait_for)
            except (URLError, OSError):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.3)
            else:
                break
        yield
    finally:
        os.killpg(process.pid, 9)
        process.wait()


@pytest.mark.slow
def test_mlflow_serves_the_registered_model(tiny_result: StudyResult, tmp_path: Path) -> None:
    home = tiny_result.context.home
    version = tiny_result.release.version
    classifier = load_champion(home, f"models:/{version.name}/{version.version}")
    images = np.array(tiny_result.context.images(classifier.size_pixels)[:3])
    port = free_port()
    words = [str(BINARIES / "mlflow"), "models", "serve", "--env-manager", "local",
             "--model-uri", f"models:/{version.name}@candidate",
             "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    with started(words, f"{address}/ping", tmp_path / "log", MLFLOW_TRACKING_URI=home.tracking_uri):
        pixels = images[:, None].astype(np.float32).tolist()
        answer = ask(f"{address}/invocations", {"inputs": pixels})
        # Shares of white are told from grey levels, image by image.
        shares = [pixels[0], *(images[1:, None].astype(np.float64) / 255).tolist()]
        of_shares = ask(f"{address}/invocations", {"inputs": shares})
    columns = [f"probability_{name}" for name in classifier.class_names]
    found, again = (
        np.array([[row[column] for column in columns] for row in said["predictions"]])
        for said in (answer, of_shares)
    )
    np.testing.assert_allclose(again, found, atol=1e-4)
    np.testing.assert_allclose(found, classifier.predict_pixels(images), atol=1e-5)
    assert {row["verdict"].split(":")[0] for row in answer["predictions"]} <= {
        f"{said} {classifier.positive_class}" for said in ("Called", "Not called")
    }


@pytest.mark.slow
def test_optuna_dashboard_reads_the_storage(tiny_result: StudyResult, tmp_path: Path) -> None:
    pytest.importorskip("optuna_dashboard")
    context = tiny_result.context
    port = free_port()
    words = [str(BINARIES / "optuna-dashboard"), context.home.storage_url,
             "--host", "127.0.0.1", "--port", str(port)]  # fmt: skip
    address = f"http://127.0.0.1:{port}/api/studies"
    with started(words, address, tmp_path / "log"):
        (summary,) = [s for s in ask(address)["study_summaries"]
                      if s["study_name"] == context.name]  # fmt: skip
        detail = ask(f"{address}/{summary['study_id']}?after=0")
    trials = bs.load_study(context.name, home=context.home).trials_dataframe()
    assert len(detail["trials"]) == len(trials)
    states = {trial["number"]: trial["state"].upper() for trial in detail["trials"]}
    expected = {"COMPLETE": "COMPLETE", "PRUNED": "PRUNED"}
    assert states == {row.number: expected[row.state] for row in trials.itertuples()}


@pytest.mark.slow
def test_an_onnx_file_answers_as_the_model_does(tiny_result: StudyResult, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    home, version = tiny_result.context.home, tiny_result.release.version
    path = bs.load_study(tiny_result.context.name, home=home).export(tmp_path / "model.onnx")
    session = runtime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    classifier = load_champion(home, f"models:/{version.name}/{version.version}")
    images = np.array(tiny_result.context.images(classifier.size_pixels))
    (found,) = session.run(None, {"pixels": images[:, None].astype(np.float32)})
    np.testing.assert_allclose(found, classifier.predict_pixels(images), atol=1e-5)
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["class_names"]) == list(classifier.class_names)
    assert float(said["operating_threshold"]) == classifier.operating_threshold
    assert said["model"].endswith(f"version {version.version}")
    assert said["simulated"] == "true"
    assert "grey" in said["preprocessing"]


def test_an_onnx_file_that_differs_is_not_written(
    tiny_result: StudyResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxscript")
    from busi_search.models import onnx as onnx_export

    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    study = bs.load_study(tiny_result.context.name, home=tiny_result.context.home)
    with pytest.raises(bs.errors.BusiSearchError, match="differ by"):
        study.export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"\.onnx"):
        study.export(tmp_path / "model.pt")
