"""What every executor promises, whichever it is."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from multiprocessing import forkserver
from pathlib import Path

import pytest

from busi_search.files import write_atomically
from busi_search.search.executors import Executor, InlineExecutor, ProcessExecutor


def _ray() -> Executor:
    # Importing Ray here, before the executor's module, would leave it with other settings.
    if find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    from busi_search.search.ray_executor import RayExecutor

    return RayExecutor("local", num_cpus=2)


def _forked() -> Executor:
    return ProcessExecutor(forked=True)


EXECUTORS: list[Callable[[], Executor]] = [InlineExecutor, ProcessExecutor, _forked, _ray]
IN_PROCESSES: list[Callable[[], Executor]] = [ProcessExecutor, _forked, _ray]


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


def _write_setting(folder: Path, index: int) -> Iterator[None]:
    (folder / "setting").write_text(os.environ.get("BUSI_SEARCH_TEST_SETTING", "none"))
    yield


def _raise(index: int) -> Iterator[None]:
    yield
    raise SystemExit(3)


def _drain(executor: Executor, seconds: float = 300) -> None:
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
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("[01]"))) < 2:
        assert executor.poll(0.05) == 2
        assert time.monotonic() < deadline
    started = time.monotonic()
    executor.stop()
    assert time.monotonic() - started < 60
    pids = {int(p.read_text()) for p in tmp_path.glob("[01]")} - {os.getpid()}
    while any(_is_alive(pid) for pid in pids):
        assert time.monotonic() - started < 120
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


@pytest.mark.parametrize("executor", [ProcessExecutor, _forked], indirect=True)
def test_a_process_has_the_environment_of_the_moment(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUSI_SEARCH_TEST_SETTING", "now")
    executor.start(partial(_write_setting, tmp_path), 1)
    _drain(executor)
    assert (tmp_path / "setting").read_text() == "now"


def test_where_nothing_can_be_forked_processes_begin_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(forkserver, "ensure_running", refuse)
    executor = ProcessExecutor(forked=True)
    executor.start(partial(_write, tmp_path, 1), 1)
    _drain(executor)
    assert (tmp_path / "0-0").exists()


@pytest.mark.parametrize("forked", [False, True])
def test_processes_end_with_the_one_that_started_them(forked: bool, tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from functools import partial\n"
        "from pathlib import Path\n"
        "from busi_search.search.executors import ProcessExecutor\n"
        "from tests.contracts.test_executors import _endless\n"
        "if __name__ == '__main__':\n"
        f"    executor = ProcessExecutor(forked={forked})\n"
        "    executor.start(partial(_endless, Path(sys.argv[1])), 2)\n"
        "    while executor.poll(0.1):\n"
        "        pass\n"
    )
    root = Path(__file__).parents[2]
    (tmp_path / "driver.py").write_text(code)
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    deadline = time.monotonic() + 300
    while len(list(tmp_path.glob("[01]"))) < 2:
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    while any(_is_alive(int(p.read_text())) for p in tmp_path.glob("[01]")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("executor", IN_PROCESSES, indirect=True)
def test_a_worker_that_fails_is_noticed(executor: Executor) -> None:
    executor.start(_raise, 1)
    _drain(executor)
    assert executor.problems
    assert all("worker 0" in problem and "3" in problem for problem in executor.problems)


@pytest.mark.parametrize("executor", [ProcessExecutor, _forked], indirect=True)
def test_a_signal_that_ended_a_process_is_named(executor: Executor, tmp_path: Path) -> None:
    executor.start(partial(_die_once, tmp_path), 1)
    _drain(executor)
    assert executor.problems == ["worker 0 was killed by SIGKILL"]


def test_a_process_that_always_fails_is_not_restarted_for_ever() -> None:
    executor = ProcessExecutor(max_restarts=1)
    executor.start(_raise, 1)
    _drain(executor)
    assert executor.problems == 2 * ["worker 0 ended with exit code 3"]
