"""Where a search's workers run: in this process, in others of this machine, or on a cluster."""

from dataclasses import dataclass, replace

from busi_search.errors import InputError
from busi_search.search.context import StudyContext
from busi_search.search.executors import Executor, InlineExecutor, ProcessExecutor
from busi_search.search.prepare import default_workers
from busi_search.search.ray_executor import RayExecutor


@dataclass(frozen=True)
class RaySettings:
    """Which Ray cluster runs the workers.

    Attributes:
        address: ``local``, ``auto``, ``HOST:PORT`` or ``ray://HOST:PORT``.
        gpus_per_worker: GPUs a worker needs, a fraction to pack several on one; 0 runs on CPUs.
    """

    address: str
    gpus_per_worker: float = 0.0


@dataclass(frozen=True)
class Places:
    """Where workers run.

    Attributes:
        executor: runs them.
        context: the study as they see it.
        num_workers: how many at once.
    """

    executor: Executor
    context: StudyContext
    num_workers: int


def choose_places(
    context: StudyContext,
    *,
    num_workers: int | None = None,
    inline: bool = False,
    ray: RaySettings | None = None,
) -> Places:
    """Return where the workers of a search run.

    Args:
        context: the study.
        num_workers: workers at once (default: as many as fit).
        inline: in this process, one trial after the other.
        ray: on a cluster.

    Raises:
        InputError: no cluster answers, or its machines cannot reach the storage.
    """
    if ray is not None:
        return _on_ray(context, ray, num_workers)
    if inline:
        return Places(InlineExecutor(), context, 1)
    number = default_workers(context.device) if num_workers is None else num_workers
    return Places(local_processes(context.device), context, number)


def local_processes(device: str) -> ProcessExecutor:
    """Return what runs each worker in a process of this machine, forked where no GPU is used."""
    return ProcessExecutor(forked=device == "cpu")


def _on_ray(context: StudyContext, settings: RaySettings, num_workers: int | None) -> Places:
    # Checked before a cluster is asked.
    sent = context.to_send()
    executor = RayExecutor(
        settings.address,
        gpus_per_worker=settings.gpus_per_worker,
        num_cpus=num_workers or default_workers("cpu"),
    )
    if context.home.has_local_storage and executor.num_nodes > 1:
        executor.stop()
        raise InputError(
            f"--ray {settings.address} has several nodes, and the Optuna storage is a file of this "
            "machine: share one with --storage postgresql+psycopg://USER@HOST/DATABASE."
        )
    workers = executor.num_places if num_workers is None else num_workers
    device = "cuda:0" if settings.gpus_per_worker > 0 else "cpu"
    return Places(executor, replace(sent, device=device), workers)
