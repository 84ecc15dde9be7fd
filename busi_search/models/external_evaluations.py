"""External evaluations of a version in MLflow: in a run of their own, and on the version."""

import json
import re
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_search.home import Home
from busi_search.models.registry import RegisteredVersion, add_tags, open_registry
from busi_search.search.mlflow.lookup import STUDY_ID, carries, search_all

# Tag of a version for each set of images: figures as JSON.
EXTERNAL = "busi.external."
# Figures that MLflow shows, with their limits as ``_low`` and ``_high``.
SHOWN = (
    "auc",
    "aupr",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "calibration_intercept",
    "calibration_slope",
    "observed_expected",
)
_COUNTS = ("num_images", "num_groups", "num_positive", "num_unlike")


def log_external_evaluation(
    home: Home,
    version: RegisteredVersion,
    *,
    report: Mapping[str, Any],
    predictions: Mapping[str, Sequence[float]],
) -> str:
    """Keep an evaluation elsewhere: a run under the study, and figures on the model version.

    Args:
        home: where the stores are.
        version: the model.
        report: what ``evaluate --data --json`` prints.
        predictions: probabilities by image name.

    Returns:
        The id of the run (``busi.kind = external``).
    """
    data, figures = report["data"], report["external"]
    slug = _slug(version, data)
    tags = {
        "busi.kind": "external",
        "busi.study": version.tags.get("busi.study", ""),
        "busi.model_version": version.version,
        "busi.external_data": data["name"],
        "busi.fingerprint": data["fingerprint"],
        "busi.evaluations": str(report["evaluations"]),
        "mlflow.note.content": describe(version, report),
    }
    kept = {name: figures[name] for name in _COUNTS if figures.get(name) is not None}
    metrics = {f"external_{name}": float(value) for name, value in kept.items()}
    metrics |= {f"external_{name}": value for name, value in _numbers(figures).items()}
    title = f"{data['name']}, version {version.version}"
    run_id, _ = create_run_under_study(home, version, title, tags)
    client = open_registry(home)
    _log_metrics(client, run_id, metrics)
    # The version's own page lists what its run holds.
    prefix = f"external_{slug}_"
    on_version = {f"{prefix}{name.removeprefix('external_')}": v for name, v in metrics.items()}
    _log_metrics(client, version.run_id, on_version)
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            ("external_report.json", report),
            ("external_predictions.json", predictions),
        ):
            text = json.dumps(content, indent=1, allow_nan=False)
            (Path(folder) / name).write_text(text, encoding="utf-8")
        client.log_artifacts(run_id, folder)
    finish_run(home, run_id)
    short = {
        "data": data["name"],
        "fingerprint": data["fingerprint"],
        "run_id": run_id,
        "evaluations": report["evaluations"],
        **kept,
        **{name: figures.get(name) for name in SHOWN},
        **{f"{name}_ci95": figures.get(f"{name}_ci95") for name in SHOWN},
    }
    readable = {
        f"busi.external_{slug}_{name}": f"{figures[name]:.4f}"
        for name in ("auc", "sensitivity", "specificity")
        if figures.get(name) is not None
    }
    add_tags(home, version, {f"{EXTERNAL}{slug}": json.dumps(short), **readable})
    return run_id


def _log_metrics(client: Any, run_id: str, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(key, value, now, 0) for key, value in metrics.items()])


def external_evaluations(version: RegisteredVersion) -> list[dict[str, Any]]:
    """Return what a version scored elsewhere: of each set of images the latest figures.

    Returns:
        ``data``, ``fingerprint``, ``run_id``, ``evaluations``, counts, and figures with ``_ci95``;
        null where the images say nothing.
    """
    tags = sorted(version.tags.items())
    return [json.loads(text) for key, text in tags if key.startswith(EXTERNAL)]


def create_run_under_study(
    home: Home, version: RegisteredVersion, name: str, tags: Mapping[str, str]
) -> tuple[str, str]:
    """Create a run beside a version's, a child of its study's, and return its id and experiment."""
    client = open_registry(home)
    experiment = client.get_run(version.run_id).info.experiment_id
    studies = search_all(client, experiment, "tags.`busi.kind` = 'study'")
    # Two studies of one name may share an experiment; the id tells them apart.
    study_id = version.tags.get(STUDY_ID)
    own = [found.info.run_id for found in studies if carries(found.data.tags, study_id)]
    parent = {"mlflow.parentRunId": own[0]} if own else {}
    if study_id is not None:
        parent[STUDY_ID] = study_id
    run = client.create_run(
        experiment, start_time=int(time.time() * 1000), run_name=name, tags={**tags, **parent}
    )
    return str(run.info.run_id), str(experiment)


def finish_run(home: Home, run_id: str) -> None:
    """End a run."""
    open_registry(home).set_terminated(run_id, status="FINISHED")


def describe(version: RegisteredVersion, report: Mapping[str, Any]) -> str:
    """Return an evaluation elsewhere as a sentence or two of Markdown."""
    data, figures = report["data"], report["external"]

    def written(name: str) -> str:
        if figures.get(name) is None:
            return f"{name.replace('_', ' ')} not known"
        low, high = figures[f"{name}_ci95"]
        return f"{name.replace('_', ' ')} {figures[name]:.3f} ({low:.3f} to {high:.3f})"

    listed = ", ".join(map(written, ("auc", "sensitivity", "specificity", "calibration_slope")))
    return (
        f"Version {version.version} of {version.name} on {data['num_evaluated']} of "
        f"{data['num_images']} images of `{data['name']}` (95 % intervals, "
        f"{data['grouping']}): {listed}. Temperature and operating point are those of the study."
    )


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    found = {}
    for name in SHOWN:
        if figures.get(name) is None:
            continue
        found[name] = float(figures[name])
        limits = zip(("low", "high"), figures[f"{name}_ci95"], strict=True)
        found |= {f"{name}_{end}": float(value) for end, value in limits if value is not None}
    return found


def _slug(version: RegisteredVersion, data: Mapping[str, Any]) -> str:
    """The name of the data as MLflow takes it; other images of the same name get another one."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", data["name"]).strip("_") or "images"
    stored = version.tags.get(f"{EXTERNAL}{name}")
    if stored is None or json.loads(stored)["fingerprint"] == data["fingerprint"]:
        return name
    return f"{name}-{data['fingerprint'][:6]}"
