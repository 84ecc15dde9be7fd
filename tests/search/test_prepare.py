import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from busi_search.data import partition
from busi_search.errors import InputError
from busi_search.home import Home, open_home
from busi_search.search import prepare
from busi_search.search.context import StudyContext
from busi_search.search.prepare import WORKER_MEMORY_BYTES, default_workers, prepare_study
from busi_search.search.reopen import reopen_study
from busi_search.search.store.identity import create_study, environment
from busi_search.search.store.open import open_storage
from busi_search.upkeep.doctor import examine


@pytest.fixture
def large_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cores and memory for 64 workers, whatever this machine has."""
    memory = SimpleNamespace(available=64 * WORKER_MEMORY_BYTES)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(prepare, "CONTAINER_MEMORY_LIMITS", ())
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(64)))


@pytest.mark.usefixtures("large_machine")
def test_cores_are_those_the_process_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The limit that joblib reads from the environment stands for a container's.
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert default_workers("cpu") == 1
    assert environment()["cpus"] == "1"
    assert " 1 CPU cores" in f" {examine(open_home(tmp_path))[0].text}"


@pytest.mark.usefixtures("large_machine")
@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (f"{3 * WORKER_MEMORY_BYTES}\n", 3),
        (f"{WORKER_MEMORY_BYTES // 2}\n", 1),
        ("max\n", 64),
        (f"{2**63 - 4096}\n", 64),  # how version 1 of control groups writes "no limit"
        (None, 64),
    ],
)
def test_a_containers_memory_limits_the_workers(
    limit: str | None, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "memory.max"
    if limit is not None:
        file.write_text(limit)
    monkeypatch.setattr(prepare, "CONTAINER_MEMORY_LIMITS", (file,))
    monkeypatch.setattr(prepare.joblib, "cpu_count", lambda: 64)
    assert default_workers("cpu") == expected


@pytest.mark.parametrize("name", ['a "quoted" one', "back\\slash", "two\nlines", "größer 🙂"])
def test_a_path_reaches_the_study_as_it_was_written(name: str, tmp_path: Path) -> None:
    wanted = str(tmp_path / name)
    with pytest.raises(InputError, match="no such file or folder") as caught:
        prepare_study("busi", data=wanted, home=open_home(tmp_path), weights="none", device="cpu")
    assert str(caught.value).startswith(f"{wanted}: ")


def test_a_study_keeps_the_division_that_it_began_with(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "groups.csv"

    def write_groups(size: int) -> None:
        rows = [f"phantom/{index},p{index // size}" for index in range(60)]
        file.write_text("\n".join(["file,group", *rows]))

    def prepared() -> StudyContext:
        overrides = (f"groups='{file}'", "phantom_num_images=60", "num_folds=3")
        return prepare_study("quickstart", home=home, overrides=overrides, device="cpu", name="q")

    write_groups(2)
    with monkeypatch.context() as before:
        before.setattr(partition, "RULES_VERSION", 1)
        began = prepared()
        study = create_study(began, open_storage(home))
    # What begins now is divided otherwise; the old study goes on as it began, and says it.
    assert prepared().partition.digest() == began.partition.digest()
    assert "not looked for" in prepared().partition.earlier
    assert create_study(prepared(), open_storage(home)).study_name == "q"
    assert reopen_study(study, home=home).partition.digest() == began.partition.digest()
    # A file of groups that changed is another division, which no rules make again.
    write_groups(3)
    with pytest.raises(InputError, match=r"'q' began with another division .* restore the file"):
        reopen_study(study, home=home)
    with pytest.raises(InputError, match="'q' exists and began with another division"):
        create_study(prepared(), open_storage(home))
    write_groups(2)
    assert reopen_study(study, home=home).partition.digest() == began.partition.digest()
