"""What every executor promises, whichever it is."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from busi_search.home import write_atomically
from busi_search.search.executors import Executor, InlineExecutor, ProcessExecutor


def _ray() -> Executor:
    pytest.importorskip("ray")
    from busi_search.search.ray_executor import RayExecutor

    return RayExecutor("local", num_cpus=2)


EXECUTORS: list[Callable[[], Executor]] = [InlineExecutor, ProcessExecutor, _ray]
IN_PROCESSES: list[Callable[[], Executor]] = [ProcessExecutor, _ray]


def _write(folder: Path, steps: int, index: int) -> Iterator[None]:
    for step in range(steps):
        (folder / f"{index}-{step}").write_text(str(os.getpid()))
        yield


def _endless(folder: Path, index: int) -> Iterator[None]:
    # Whole or not there: this process may be ended at any moment.
    write_atomically(folder / f"{index}", str(os.getpid()).encode())
    while True:
        time.sleep(0.02)
        yield


def _die_once(folder: Path, index: int) -> Iterator[None]:
    first = not (folder / "first").exists()
    (folder / "first").touch()
    yield
    if first:
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "survived").touch()


def _raise(index: int) -> Iterator[None]:
    yield
    raise SystemExit(3)


def _drain(executor: Executor, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while executor.poll(0.1) > 0:
        assert time.monotonic() < deadline, "the workers did not end"


@pytest.fixture(params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    made = request.param()
    yield made
    made.stop()


def test_every_worker_does_all_its_steps(executor: Executor, tmp_path: Path) -> None:
    executor.start(partial(_write, tmp_path, 3), 2)
    _drain(executor)
    assert {p.name for p in tmp_path.iterdir()} == {f"{i}-{s}" for i in range(2) for s in range(3)}


def test_stop_ends_workers_that_would_never_end(executor: Executor, tmp_path: Path) -> None:
    executor.start(partial(_endless, tmp_path), 2)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.glob("[01]"))) < 2:
        assert executor.poll(0.05) == 2
        assert time.monotonic() < deadline
    started = time.monotonic()
    executor.stop()
    assert time.monotonic() - started < 15
    pids = {int(p.read_text()) for p in tmp_path.glob("[01]")} - {os.getpid()}
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() - started < 30
        time.sleep(0.05)
    assert executor.poll(0) == 0


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("executor", IN_PROCESSES, indirect=True)
def test_a_killed_process_is_replaced(executor: Executor, tmp_path: Path) -> None:
    executor.start(partial(_die_once, tmp_path), 1)
    _drain(executor)
    assert (tmp_path / "survived").exists()


@pytest.mark.parametrize("executor", IN_PROCESSES, indirect=True)
def test_a_worker_that_fails_is_noticed(executor: Executor) -> None:
    executor.start(_raise, 1)
    _drain(executor)
    assert executor.num_died >= 1  # type: ignore[attr-defined]


def test_a_process_that_always_fails_is_not_restarted_for_ever() -> None:
    executor = ProcessExecutor(max_restarts=1)
    executor.start(_raise, 1)
    _drain(executor)
    assert executor.num_died == 2
