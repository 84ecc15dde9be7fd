"""Which files of tests begin, and on how many processes they run."""

import os
from pathlib import Path

import pytest

from tests.conftest import LONGEST_FIRST, pytest_xdist_auto_num_workers

GIB = 2**30


def test_the_files_that_begin_are_there() -> None:
    missing = [name for name in LONGEST_FIRST if not (Path(__file__).parent / name).is_file()]
    assert missing == []


@pytest.mark.parametrize(
    ("cores", "gib", "expected"), [(2, 16, 3), (4, 64, 5), (2, 7, 2), (8, 2, 1)]
)
def test_one_process_more_than_cores_as_far_as_memory_goes(
    cores: int, gib: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_XDIST_AUTO_NUM_WORKERS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gib * GIB // 4096}
    monkeypatch.setattr(os, "sysconf", sizes.__getitem__)
    assert pytest_xdist_auto_num_workers() == expected
    monkeypatch.setenv("PYTEST_XDIST_AUTO_NUM_WORKERS", "1")
    assert pytest_xdist_auto_num_workers() is None
