import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import busi_search as bs
from busi_search.data.phantom import simulate_phantom, write_phantom
from busi_search.errors import InputError
from busi_search.models.answers import csv_line, csv_row
from busi_search.report.study_result import StudyResult
from tests.command import call_here


def test_importing_the_package_is_instant() -> None:
    code = (
        "import sys, busi_search as bs\n"
        "assert {'run_study', 'load_study', 'load_champion'} <= set(dir(bs))\n"
        "heavy = ('torch', 'mlflow', 'optuna', 'pandas', 'plotly')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="load_nothing"):
        _ = bs.load_nothing


def test_the_table_and_the_best_agree_with_the_search(tiny_result: StudyResult) -> None:
    study = bs.load_study(tiny_result.context.name, home=tiny_result.context.home.root)
    frame = study.trials_dataframe()
    assert list(frame["number"]) == [0, 1, 2, 3]
    assert set(frame["state"]) <= {"COMPLETE", "PRUNED"}
    complete = frame[frame["state"] == "COMPLETE"]
    assert complete["cv_auc"].notna().all()
    assert frame[frame["state"] == "PRUNED"]["cv_auc"].isna().all()
    assert study.best.value == pytest.approx(complete["cv_auc"].max())
    row = frame.set_index("number").loc[study.best.number]
    assert row["learning_rate"] == study.best.params["learning_rate"]
    assert study.best.metrics["cv_auc"] == pytest.approx(study.best.value)
    assert f"best {study.best.value:.4f}" in repr(study)
    assert tiny_result.release is not None
    assert study.estimates() == tiny_result.release.estimates


def test_figures_are_plotly_objects_and_the_report_is_written(
    tiny_result: StudyResult, tmp_path: Path
) -> None:
    study = bs.load_study(tiny_result.context.name, home=tiny_result.context.home)
    figures = study.figures()
    assert {"history", "roc", "confusion"} <= set(figures)
    assert all(isinstance(figure, go.Figure) for figure in figures.values())
    page = study.report(tmp_path / "r.html").read_text()
    assert study.name in page


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_exported_table_reads_back(
    tiny_result: StudyResult, tmp_path: Path, suffix: str
) -> None:
    name, home = tiny_result.context.name, tiny_result.context.home.root
    target = tmp_path / f"trials{suffix}"
    done = call_here("--home", home, "export", name, "--to", target)
    assert done.returncode == 0, done.stderr
    back = pd.read_csv(target) if suffix == ".csv" else pd.read_parquet(target)
    frame = bs.load_study(name, home=home).trials_dataframe()
    assert list(back.columns) == list(frame.columns)
    np.testing.assert_allclose(back["cv_auc"], frame["cv_auc"])


def test_a_table_of_another_kind_is_refused(tiny_result: StudyResult, tmp_path: Path) -> None:
    study = bs.load_study(tiny_result.context.name, home=tiny_result.context.home)
    with pytest.raises(InputError, match=r"\.parquet"):
        study.export(tmp_path / "trials.xlsx")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        study.export(tmp_path / "file" / "trials.csv")


def test_an_absent_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="absent"):
        bs.load_study("absent", home=tmp_path / "home")


def test_a_model_answers_for_a_folder_and_as_a_table(
    tiny_result: StudyResult, tmp_path: Path
) -> None:
    write_phantom(tmp_path / "p", simulate_phantom(30, size_pixels=32, seed=3))
    classifier = bs.load_champion(
        tiny_result.context.home.root, "models:/busi-classifier@candidate"
    )
    answers = classifier.predict(tmp_path / "p")
    assert len(answers) == 30
    (alone,) = classifier.predict(answers[0].path)
    assert (alone.path, alone.label) == (answers[0].path, answers[0].label)
    assert alone.probabilities == pytest.approx(answers[0].probabilities, abs=1e-5)
    rows = [csv_row(item) for item in answers]
    lines = [rows[0].keys(), *(row.values() for row in rows)]
    (tmp_path / "a.csv").write_text("".join(map(csv_line, lines)))
    table = pd.read_csv(tmp_path / "a.csv")
    assert list(table["label"]) == [item.label for item in answers]
    shares = table[[f"probability_{name}" for name in classifier.class_names]]
    np.testing.assert_allclose(shares.sum(axis="columns"), 1, atol=1e-5)


def test_predict_writes_a_table_whole_or_not_at_all(
    tiny_result: StudyResult, tmp_path: Path
) -> None:
    write_phantom(tmp_path / "p", simulate_phantom(30, size_pixels=32, seed=3))
    words = ["--home", tiny_result.context.home.root, "predict", tmp_path / "p"]
    words += ["--model-uri", "models:/busi-classifier@candidate", "--to"]
    target = tmp_path / "a.csv"
    done = call_here(*words, target)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert len(pd.read_csv(target)) == 30
    assert call_here(*words, tmp_path / "a.txt").returncode == 2
    before = target.read_bytes()
    next((tmp_path / "p").rglob("benign (1).png")).write_bytes(b"damaged")
    done = call_here(*words, target)
    assert done.returncode == 1
    assert "benign (1).png" in done.stderr
    assert len(pd.read_csv(target)) == 29
    assert target.read_bytes() != before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "p"]
