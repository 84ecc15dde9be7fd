"""Workers placed on a cluster by Ray; what they find, and who holds what, is in the storage."""

import os
import time
from contextlib import suppress
from typing import Any

from busi_search.errors import BusiSearchError, InputError
from busi_search.search.executors import Worker

# Ray reads these when it is imported. It would start its workers through `uv run` again, which
# needs a package index on every node.
SETTINGS = {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_USAGE_STATS_ENABLED": "0"}


class RayExecutor:
    """Runs each worker as a Ray task, and again elsewhere when its process or its node is lost.

    A task is sent the worker once per node, through Ray's object store: arrays in it are shared by
    all tasks of a node without a copy.

    Attributes:
        problems: the last lines of the errors that workers ended with.
    """

    def __init__(self, address: str, *, gpus_per_worker: float = 0.0, num_cpus: int = 1) -> None:
        """Connect to a cluster.

        Args:
            address: ``local`` starts Ray on this machine, with ``num_cpus`` places; else what
                ``ray start --head`` printed, ``auto``, or ``ray://HOST:PORT``.
            gpus_per_worker: GPUs that each worker needs; 0.25 packs four workers on one.
            num_cpus: places of a Ray on this machine.

        Raises:
            InputError: Ray is not installed, or no cluster answers at the address.
        """
        for name, value in SETTINGS.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise InputError("--ray needs Ray: pip install 'busi-search[ray]'.") from None
        self._ray: Any = ray
        self._gpus = gpus_per_worker
        self._tasks: dict[Any, int] = {}
        self.problems: list[str] = []
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        if address == "local":
            options |= {"num_cpus": max(1, num_cpus), "include_dashboard": False}
        self._begun_here = not ray.is_initialized()
        if self._begun_here:
            try:
                ray.init(address=address, **options)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise InputError(
                    f"--ray {address}: no Ray cluster answers there ({_last_line(error)}); start "
                    "one with `ray start --head`, or use --ray local."
                ) from None

    @property
    def num_nodes(self) -> int:
        """Number of machines of the cluster."""
        return sum(bool(node["Alive"]) for node in self._ray.nodes())

    @property
    def num_places(self) -> int:
        """Number of workers that fit on the cluster at once."""
        resources = self._ray.cluster_resources()
        places = int(resources.get("CPU", 0))
        if self._gpus > 0:
            places = min(places, int(resources.get("GPU", 0) / self._gpus + 1e-9))
        return max(1, places)

    def start(self, worker: Worker, num_workers: int) -> None:
        """Hand the workers to Ray; those that do not fit wait for a place.

        Raises:
            InputError: no node can ever run one of them.
        """
        if self._gpus > 0 and self._ray.cluster_resources().get("GPU", 0) < self._gpus:
            raise InputError(
                f"--gpus-per-worker {self._gpus:g}: no node of the Ray cluster has that; "
                "leave it out to run on CPUs."
            )
        run = self._ray.remote(
            max_retries=-1,
            num_cpus=1,
            num_gpus=self._gpus,
            scheduling_strategy="SPREAD",
        )(_run_task)
        shared = self._ray.put(worker)
        fraction = self._gpus if 0 < self._gpus < 1 else None
        for index in range(num_workers):
            self._tasks[run.remote(shared, index, fraction)] = index

    def poll(self, seconds: float) -> int:
        """Wait, note how workers ended, and return how many are left."""
        if not self._tasks:
            return 0
        deadline = time.monotonic() + seconds
        ended, _ = self._ray.wait(
            list(self._tasks), num_returns=len(self._tasks), timeout=max(0.0, seconds)
        )
        for task in ended:
            index = self._tasks.pop(task)
            try:
                self._ray.get(task)
            except Exception as error:
                self.problems.append(f"worker {index}: {_last_line(error)}")
        if ended and self._tasks:
            time.sleep(max(0.0, deadline - time.monotonic()))
        return len(self._tasks)

    def stop(self) -> None:
        """End the workers where they stand, and leave the cluster."""
        for task in self._tasks:
            with suppress(Exception):
                self._ray.cancel(task, force=True)
        if self._tasks:
            self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=5)
        self._tasks = {}
        if self._begun_here:
            # Leaves the cluster, whose tasks of this process then end; one begun here ends too.
            self._ray.shutdown()
            self._begun_here = False


def _run_task(worker: Worker, index: int, gpu_fraction: float | None) -> None:
    """Body of a task, on whichever node."""
    if gpu_fraction is not None:
        import torch

        if torch.cuda.is_available():
            # Ray counts shares of a GPU but does not hold anybody to theirs.
            torch.cuda.set_per_process_memory_fraction(gpu_fraction)
    try:
        for _ in worker(index):
            pass
    except SystemExit as error:
        raise BusiSearchError(f"worker {index} ended with {error.code}") from None


def _last_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines()
    return lines[-1] if lines else type(cause).__name__
