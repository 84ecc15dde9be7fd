"""Fixtures: every image is generated; real ones are only measured on where they are at hand."""

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from busi_search.home import Home, create_tracking_store, open_home
from busi_search.seeding import seed_everything

if TYPE_CHECKING:
    from busi_search.report.study_result import StudyResult


# A file is worked on by one process. Those that take a minute or more, the longest first; those
# that mostly wait beside those that compute.
LONGEST_FIRST = (
    "compatibility/test_nothing_changed.py",
    "topology/test_proof.py",
    "test_docs_commands.py",
    "test_cli.py",
    "faults/test_workers.py",
    "contracts/test_sources.py",
    "models/test_pretrained_networks.py",
    "release/test_external.py",
    "training/test_zoo.py",
    "test_docs.py",
    "serving/test_app.py",
    "faults/test_tracking_outage.py",
    "models/test_region_models.py",
)
# What a process of the tests takes with all its libraries and the processes that it starts.
GIB_PER_PROCESS = 3


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take long: else one of them keeps a core waiting in the end."""
    here = Path(__file__).parent
    rank = {here / name: place for place, name in enumerate(LONGEST_FIRST)}
    slow = {item.path for item in items if item.get_closest_marker("slow") is not None}

    def place(item: pytest.Item) -> int:
        return rank.get(item.path, len(rank) + (item.path not in slow))

    items.sort(key=place)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Take back what MLflow handed down: its ``set_tracking_uri`` writes into the environment.

    A command that a test starts with ``--home`` would read another test's store instead.
    """
    os.environ.pop("MLFLOW_TRACKING_URI", None)


def pytest_xdist_auto_num_workers() -> int | None:
    """Run one process more than there are cores: a third of the time, tests wait for others."""
    if "PYTEST_XDIST_AUTO_NUM_WORKERS" in os.environ:
        return None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (AttributeError, ValueError, OSError):
        return None
    return max(1, min((cores or 1) + 1, int(memory / GIB_PER_PROCESS)))


@pytest.fixture(autouse=True)
def seeded() -> None:
    seed_everything(0)


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BUSI_SEARCH_HOME", "BUSI_SEARCH_STORAGE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def tracking_tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty tracking database: making its tables takes seconds, copying it does not."""
    home = open_home(tmp_path_factory.mktemp("tables"))
    create_tracking_store(home)
    assert home.tracking_database is not None
    return home.tracking_database


@pytest.fixture
def home(tmp_path: Path, tracking_tables: Path) -> Home:
    made = open_home(tmp_path / "home")
    assert made.tracking_database is not None
    shutil.copy(tracking_tables, made.tracking_database)
    return made


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def smooth_image(rng: np.random.Generator, size: int = 48) -> np.ndarray:
    """A random texture that no other draw resembles."""
    coarse = rng.integers(0, 256, (size // 3, size // 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


@pytest.fixture
def busi_folder(tmp_path: Path, rng: np.random.Generator) -> Path:
    """A small folder as Kaggle ships BUSI, masks and a second mask included."""
    root = tmp_path / "busi" / "Dataset_BUSI_with_GT"
    for name, count in (("benign", 14), ("malignant", 12), ("normal", 11)):
        (root / name).mkdir(parents=True)
        for index in range(1, count + 1):
            image = smooth_image(rng)
            Image.fromarray(image).convert("RGB").save(root / name / f"{name} ({index}).png")
            mask = Image.fromarray(np.zeros_like(image))
            mask.save(root / name / f"{name} ({index})_mask.png")
        mask.save(root / name / f"{name} (1)_mask_1.png")
    return tmp_path / "busi"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real images; tests that want it are skipped where it is absent."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("BUSI_SEARCH_TEST_DATA", default))
    if not (folder / "busi").is_dir():
        pytest.skip("no real images on this machine")
    return folder


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    """As in a search: sums come out the same to the last bit, and cores are not fought over."""
    import torch

    torch.set_num_threads(1)


TINY = ("epochs=2", "phantom_num_images=60", "num_folds=3", "architecture='small_cnn'",
        "image_size_pixels=28", "startup_trials=2")  # fmt: skip


@pytest.fixture(scope="session")
def tiny_result(tmp_path_factory: pytest.TempPathFactory) -> "StudyResult":
    """A finished search on phantoms, in this process; shared, so only looked at."""
    from busi_search.run import run_study

    root = tmp_path_factory.mktemp("tiny") / "home"
    return run_study("quickstart", trials=4, home=root, overrides=TINY, device="cpu", inline=True)
