"""What holds for every source of images: the whole way from a folder to an answer."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from busi_search.data.sources import guess_source
from busi_search.home import Home
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study
from busi_search.search.context import StudyContext
from busi_search.search.driver import run_search
from busi_search.search.executors import InlineExecutor
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.places import RaySettings
from busi_search.search.prepare import prepare_study
from busi_search.search.store.open import find_study
from busi_search.search.store.records import is_finished
from busi_search.search.store.study_record import StudyRecord
from tests.command import call_here
from tests.data.dicoms import dicom
from tests.data.layouts import LAYOUTS, picture

SMALL = ("epochs=1", "architecture='tiny_resnet'", "dataset.image_size_pixels=16", "num_folds=2",
         "pruner='none'", "recipes=[]", "mask_weight=0", "test=0.25",
         # So that no clip is all of a class's part of the sealed test.
         "dataset.frames_per_file=1")  # fmt: skip
# Of the published layouts these go all the way at every change, the others on request.
ALWAYS = ("BUSI", "BUS-BRA", "table", "DICOM table", "12 bits in 16")


def table_of_dicom(root: Path, n: int) -> None:
    """A folder per patient, with a clip each and stills of which some have no suffix."""
    rng = np.random.default_rng(0)
    rows = ["file,label,device"]
    for number in range(2 * n):
        place = root / f"patient{number:02d}" / "study"
        region = (4, 4, 43, 35, 1, 1)

        def scan(*shape: int) -> np.ndarray:
            return rng.integers(40, 256, shape, dtype=np.uint8)

        patient = f"MRN {number}"
        dicom(place / f"1.2.{number}", scan(40, 48), patient=patient, regions=[region])
        if number % 3 == 0:
            clip = dicom(place / "clip.dcm", scan(7, 40, 48, 3), patient=patient, photometric="RGB")
            assert clip.is_file()
        rows.append(f"patient{number:02d},{'malignant' if number % 2 else 'benign'},GE")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def table(root: Path, n: int) -> None:
    """Images that a sheet lists with their patients."""
    rows = ["file,label,patient"]
    for number in range(2 * n):
        picture(root / f"images/{number}.png", number)
        rows.append(f"images/{number}.png,{'malignant' if number % 2 else 'benign'},{number // 2}")
    (root / "labels.csv").write_text("\n".join(rows) + "\n")


def deep_folders(root: Path, n: int) -> None:
    """Class folders of 12 bits in 16."""
    from PIL import Image

    for c, name in enumerate(("benign", "malignant")):
        for k in range(n):
            pixels = np.random.default_rng(50 * c + k).integers(0, 4096, (40, 48), dtype=np.uint16)
            (root / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / name / f"{k}.png")


WRITERS: dict[str, Callable[..., None]] = {
    **{title: layout[0] for title, layout in LAYOUTS.items()},
    "table": table,
    "DICOM table": table_of_dicom,
    "12 bits in 16": deep_folders,
}


def _written(title: str, root: Path) -> Path:
    WRITERS[title](root, 9)
    sheet = root / "labels.csv"
    return sheet if sheet.is_file() else root


def _run(data: Path, home: Home, trials: int, ray: RaySettings | None = None) -> StudyResult:
    """Search and release."""
    return run_study(
        "busi", trials=trials, data=str(data), home=home.root, name="source", weights="none",
        overrides=_overrides(data), device="cpu", inline=ray is None, ray=ray, workers=1,
    )  # fmt: skip


def _search_one(data: Path, home: Home) -> StudyContext:
    """Search one trial, and release nothing: that takes longer than the search."""
    context = prepare_study(
        "busi", data=str(data), home=home, name="source", weights="none",
        overrides=_overrides(data), device="cpu",
    )  # fmt: skip
    *_, progress = run_search(
        context, InlineExecutor(), Tracker(context), num_trials=1, num_workers=1
    )
    assert progress.complete == 1
    return context


def _overrides(data: Path) -> tuple[str, ...]:
    return (*SMALL, f"dataset.source={guess_source(str(data))!r}")


def _json(*words: object) -> dict[str, object]:
    answer = call_here(*words, "--json")
    assert answer.returncode == 0, answer.stderr
    found: dict[str, object] = json.loads(answer.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    "title",
    [
        title if title in ALWAYS else pytest.param(title, marks=pytest.mark.exhaustive)
        for title in WRITERS
    ],
)
def test_every_source_goes_all_the_way(title: str, home: Home, tmp_path: Path) -> None:
    data = _written(title, tmp_path / "set")
    first = _search_one(data, home)
    again = _run(data, home, 2)
    assert again.progress.complete == 2
    assert again.release is not None
    assert again.context.partition.digest() == first.partition.digest()

    evaluated = _json("--home", home.root, "evaluate", "source")
    test = evaluated["test"]
    assert isinstance(test, dict)
    assert test["num_images"] == again.context.counts["num_test"]

    page = tmp_path / "page.html"
    answer = call_here("--home", home.root, "report", "source", "--to", page)
    assert answer.returncode == 0, answer.stderr
    assert "source" in page.read_text()
    trials = tmp_path / "trials.csv"
    answer = call_here("--home", home.root, "export", "source", "--to", trials)
    assert answer.returncode == 0, answer.stderr
    assert len(trials.read_text().splitlines()) == 3

    development = again.context.development
    file = (development.files or development.paths)[0]
    root = data if data.is_dir() else data.parent
    path = next(p for p in root.rglob(Path(file).name) if p.as_posix().endswith(file))
    version = again.release.version.version
    uri = f"models:/busi-classifier/{version}"
    predicted = _json("--home", home.root, "predict", path, "--model-uri", uri)["predictions"]
    assert isinstance(predicted, list)
    assert set(predicted[0]["probabilities"]) == set(development.class_names)
    assert abs(sum(predicted[0]["probabilities"].values()) - 1) < 1e-5
    # What is asked about a file is what was trained on: the same pixels, however they are stored.
    with_clip = [row["path"] for row in predicted]
    assert len(with_clip) == (5 if "#" in development.paths[0] else 1)


@pytest.mark.slow
def test_a_worker_that_joins_reads_the_source_too(home: Home, tmp_path: Path) -> None:
    data = _written("DICOM table", tmp_path / "set")
    _search_one(data, home)
    study = find_study(home, "source")
    StudyRecord(study).set_target(2)
    answer = call_here("--home", home.root, "worker", "source", "--workers", "1")
    assert answer.returncode == 0, answer.stderr
    assert sum(map(is_finished, find_study(home, "source").get_trials())) == 2


@pytest.mark.slow
def test_workers_on_ray_are_sent_the_images(home: Home, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    data = _written("DICOM table", tmp_path / "set")
    assert _run(data, home, 2, RaySettings("local")).progress.complete == 2
