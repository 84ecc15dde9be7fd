"""How busy the machine is during a search, for the page "System metrics" of the study's run."""

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow.entities import Metric

EVERY_SECONDS = 15.0


class SystemMetrics:
    """Asks MLflow's own monitors for processor, memory, disk, network and, if any, graphics cards.

    Only the driver's machine is measured, not those of workers elsewhere.
    """

    def __init__(self) -> None:
        """Begin to count."""
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        # MLflow does not type them.
        kinds: list[Any] = [CPUMonitor, DiskMonitor, NetworkMonitor]
        self._monitors: list[Any] = [kind() for kind in kinds]
        self._monitors += _card_monitors()
        # What a processor did is counted since the last time it was asked.
        for monitor in self._monitors:
            monitor.collect_metrics()
            monitor.clear_metrics()
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether it is time for the next figures."""
        return time.monotonic() - self._last >= EVERY_SECONDS

    def read(self, begun: int) -> "list[Metric]":
        """Return the figures of now, under MLflow's names; the step counts seconds.

        Args:
            begun: when the run began, in milliseconds.
        """
        from mlflow.entities import Metric

        self._last, now = time.monotonic(), int(time.time() * 1000)
        figures: dict[str, float] = {}
        for monitor in self._monitors:
            monitor.collect_metrics()
            figures |= monitor.aggregate_metrics()
            monitor.clear_metrics()
        step = max(0, now - begun) // 1000
        return [Metric(f"system/{name}", float(v), now, step) for name, v in figures.items()]


def _card_monitors() -> list[Any]:
    """Return MLflow's monitor of NVIDIA's cards, where there are some and ``nvidia-ml-py``."""
    from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

    kind: Any = GPUMonitor
    try:
        return [kind()]
    except (ImportError, RuntimeError):
        return []
