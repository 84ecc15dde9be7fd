"""What MLflow's own `pyfunc` answers with: what `predict` says, without busi-search."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import mlflow
import numpy as np
import pytest

from busi_search.models import flavor
from busi_search.models.answers import csv_row
from busi_search.models.judging import answer_views
from busi_search.models.loading import load_champion
from busi_search.models.served import CARRIED, ServedModel, column_types
from busi_search.run import StudyResult


def _uri(result: StudyResult) -> str:
    """The registered model's address, by its own name, as MLflow wants it."""
    assert result.release is not None
    assert result.release.version is not None
    return f"models:/{result.release.version.name}/{result.release.version.version}"


def test_pyfunc_says_what_predict_says(tiny_result: StudyResult) -> None:
    home = tiny_result.context.home
    classifier = load_champion(home, _uri(tiny_result))
    images = np.array(tiny_result.context.images(28)[:6])
    images[5] = np.random.default_rng(0).integers(0, 256, (28, 28))
    mlflow.set_tracking_uri(home.tracking_uri)
    model = mlflow.pyfunc.load_model(_uri(tiny_result))
    table = model.predict(images[:, None].astype(np.float32))
    assert list(table.columns) == list(column_types(classifier.class_names))
    answers = answer_views(classifier, images, [0.0] * len(images))
    assert any(answer.unlike for answer in answers)
    for (_, row), answer in zip(table.iterrows(), answers, strict=True):
        cells = csv_row(answer)
        assert answer.verdict is not None
        assert answer.out_of_distribution is not None
        assert row["verdict"] == answer.verdict.text
        assert row["likeness"] == answer.out_of_distribution.text
        assert (row["label"], row["most_likely"]) == (cells["label"], cells["most_likely"])
        assert row["positive"] is (cells["positive"] == "1")
        assert row["unlike"] is (cells["unlike"] == "1")
        for name in classifier.class_names:
            column = f"probability_{name}"
            assert row[column] == pytest.approx(float(cells[column]), abs=1e-5)
    shares = model.predict(images[:, None].astype(np.float32) / 255)
    assert shares["label"].tolist() == table["label"].tolist()
    assert shares["unlike"].tolist() == table["unlike"].tolist()


def test_the_signature_names_the_columns(tiny_result: StudyResult) -> None:
    mlflow.set_tracking_uri(tiny_result.context.home.tracking_uri)
    signature = mlflow.models.get_model_info(_uri(tiny_result)).signature
    assert signature is not None
    (pixels,) = signature.inputs.to_dict()
    assert pixels["tensor-spec"]["shape"] == (-1, 1, 28, 28)
    kinds = {column["name"]: column["type"] for column in signature.outputs.to_dict()}
    assert kinds == column_types(
        load_champion(tiny_result.context.home, _uri(tiny_result)).class_names
    )
    optional = [c["name"] for c in signature.outputs.to_dict() if not c["required"]]
    assert optional == ["unlike", "distance", "limit"]


def test_what_is_not_known_is_not_nan(tiny_result: StudyResult) -> None:
    classifier = load_champion(tiny_result.context.home, _uri(tiny_result))
    metadata = {key: v for key, v in classifier.metadata.items() if key != "familiarity"}
    images = np.array(tiny_result.context.images(28)[:2])[:, None].astype(np.float32)
    table = ServedModel(classifier.module, metadata).predict(images)
    assert table["unlike"].tolist() == table["distance"].tolist() == [None, None]
    assert json.dumps(table.to_dict(orient="records"), allow_nan=False)


def test_a_server_needs_no_busi_search() -> None:
    folder = Path(flavor.__file__).parent
    for name in CARRIED:
        for node in ast.walk(ast.parse((folder / f"{name}.py").read_text())):
            if isinstance(node, ast.Import):
                assert not any(alias.name.startswith("busi_search") for alias in node.names)
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                assert not str(node.module).startswith("busi_search")
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.module in CARRIED


@pytest.mark.slow
def test_pyfunc_loads_where_busi_search_is_not_installed(tiny_result: StudyResult) -> None:
    home = tiny_result.context.home
    program = (
        "import sys; sys.modules['busi_search'] = None; import mlflow, numpy as np;"
        f"mlflow.set_tracking_uri({home.tracking_uri!r});"
        f"model = mlflow.pyfunc.load_model({_uri(tiny_result)!r});"
        "print(list(model.predict(np.full((2, 1, 28, 28), 90, 'float32'))['verdict'])[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "alled malignant: the probability" in done.stdout
