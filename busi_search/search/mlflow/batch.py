"""Writing to a run in as few calls as MLflow takes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

# MLflow takes 1,000 metrics, parameters and tags at once.
_METRICS_PER_CALL = 800


def log_batch(
    client: "MlflowClient",
    run_id: str,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: "list[Metric] | None" = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Write figures, parameters and tags to a run; the tags come last, also within a call."""
    from mlflow.entities import Param, RunTag

    metrics = metrics or []
    full = max(0, len(metrics) - 1) // _METRICS_PER_CALL * _METRICS_PER_CALL
    for start in range(0, full, _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
    client.log_batch(
        run_id,
        metrics=metrics[full:],
        params=[Param(key, str(value)) for key, value in (params or {}).items()],
        tags=[RunTag(key, value) for key, value in (tags or {}).items()],
    )
