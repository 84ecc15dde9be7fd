"""How busy GPU, processor and memory are during a search: MLflow's own "System metrics"."""

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any

SAMPLING_SECONDS = 10.0


def log_system_metrics(tracking_uri: str, run_id: str, device: str) -> Callable[[], None]:
    """Begin to log the use of this machine's GPUs on a run; nothing where a CPU trains.

    MLflow's own monitor does it: ``system/gpu_0_utilization_percentage``,
    ``system/gpu_0_memory_usage_megabytes`` and the like where ``nvidia-ml-py`` is installed, and
    processor and memory everywhere. It sees the machine of the process that drives the search, not
    those of workers that joined from elsewhere, and never ends a search.

    Args:
        tracking_uri: of the store that has the run.
        run_id: of a run that is shown as running; the monitor ends with it.
        device: PyTorch's name of the device that trains.

    Returns:
        What ends it.
    """
    if device == "cpu":
        return lambda: None
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    # Why it could not look at a GPU, or write, is nothing to be told during a search.
    logging.getLogger("mlflow.system_metrics").setLevel(logging.CRITICAL)
    try:
        monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
            run_id,
            sampling_interval=SAMPLING_SECONDS,
            resume_logging=True,
            tracking_uri=tracking_uri,
        )
        monitor.start()
    except Exception:
        return lambda: None

    def finish() -> None:
        with suppress(Exception):
            monitor.finish()

    return finish
