"""Where workers run: in this process, or in local processes. Knows nothing of trials."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Protocol

from busi_search.errors import BusiSearchError

# A worker is given its index and works as long as it is iterated.
Worker = Callable[[int], Iterator[None]]


class Executor(Protocol):
    """Runs several copies of a picklable worker until each has nothing left to do.

    Attributes:
        problems: how workers ended that did not end well, one line each, in their order.
    """

    problems: list[str]

    def start(self, worker: Worker, num_workers: int) -> None:
        """Start the workers; returns at once."""
        ...

    def poll(self, seconds: float) -> int:
        """Let the workers work for about ``seconds`` and return how many are still at it."""
        ...

    def stop(self) -> None:
        """End the workers where they stand; returns when none is left."""
        ...


class InlineExecutor:
    """Runs workers in this process, one step of one worker per poll; for tests and notebooks.

    Attributes:
        problems: none: what a worker raises ends this process's call.
    """

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._workers: list[Iterator[None]] = []

    def start(self, worker: Worker, num_workers: int) -> None:
        """Make the workers' iterators; nothing runs before :meth:`poll`."""
        self._workers = [worker(index) for index in range(num_workers)]

    def poll(self, seconds: float) -> int:
        """Advance every worker by one step."""
        self._workers = [worker for worker in self._workers if next(worker, "done") != "done"]
        return len(self._workers)

    def stop(self) -> None:
        """Close the iterators."""
        for worker in self._workers:
            worker.close()  # type: ignore[attr-defined]
        self._workers = []


def prepare_processes(device: str = "cpu") -> bool:
    """Begin to import what workers need in a process that they are then forked from.

    It takes seconds, which the caller may use for something else.

    Args:
        device: of the workers.

    Returns:
        Whether workers can be forked: not for GPUs, not on macOS, whose libraries do not bear it,
        nor on Windows, nor where the process cannot be started or reached; there each begins anew.
    """
    if sys.platform != "linux" or device.startswith("cuda"):
        return False
    from multiprocessing import forkserver

    try:
        forkserver.set_forkserver_preload(["busi_search.search.forkserver_preload"])
        forkserver.ensure_running()
    except OSError:
        return False
    return True


class ProcessExecutor:
    """Runs each worker in a process of its own, and starts another where one died.

    A process that ends with an error code or a signal is replaced up to ``max_restarts`` times;
    workers end themselves when this process is gone.

    Args:
        max_restarts: processes that may be replaced.
        forked: fork the workers from a process that has imported all they need (see
            :func:`prepare_processes`), whose memory they share; for GPUs each begins anew.

    Attributes:
        problems: exit codes and signals of the processes that died.
    """

    def __init__(self, *, max_restarts: int = 3, forked: bool = False) -> None:
        self._context: SpawnContext | ForkServerContext = (
            multiprocessing.get_context("forkserver")
            if forked and prepare_processes()
            else multiprocessing.get_context("spawn")
        )
        self._restarts_left = max_restarts
        self._worker: Worker | None = None
        self._processes: dict[int, BaseProcess] = {}
        self.problems: list[str] = []

    def start(self, worker: Worker, num_workers: int) -> None:
        """Start one process per worker."""
        self._worker = worker
        for index in range(num_workers):
            self._spawn(index)

    def _spawn(self, index: int) -> None:
        # The environment may have changed since the process was started that this one comes from.
        process = self._context.Process(
            target=_run_in_process, args=(self._worker, index, dict(os.environ)), daemon=False
        )
        process.start()
        self._processes[index] = process

    def poll(self, seconds: float) -> int:
        """Wait, replace dead workers, and return how many are alive."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and any(p.is_alive() for p in self._processes.values()):
            time.sleep(min(0.05, seconds))
        for index, process in list(self._processes.items()):
            if process.is_alive():
                continue
            process.join()
            del self._processes[index]
            if process.exitcode != 0:
                self.problems.append(f"worker {index} {_ending(process.exitcode)}")
                if self._restarts_left > 0:
                    self._restarts_left -= 1
                    self._spawn(index)
        return len(self._processes)

    def stop(self) -> None:
        """End the processes with SIGTERM, then SIGKILL after three seconds."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            process.join(timeout=3)
            if process.is_alive():
                process.kill()
                process.join()
        self._processes = {}


def _ending(code: int | None) -> str:
    """Say how a process ended, by its exit code."""
    if code is None or code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _run_in_process(worker: Worker, index: int, environment: Mapping[str, str]) -> None:
    """Body of a worker process: Ctrl-C is the parent's business, SIGTERM ends it at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.clear()
    os.environ.update(environment)
    try:
        for _ in worker(index):
            pass
    except BusiSearchError as error:
        # One sentence on stderr and exit code 1, as a command would end.
        raise SystemExit(f"Worker {index}: {error}") from None


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker is somebody's child"
    parent.join()
    os._exit(1)
