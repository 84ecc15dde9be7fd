"""What a version scored on the sealed test, kept with it."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_search.home import Home
from busi_search.models.registry import RegisteredVersion, open_registry
from busi_search.search.mlflow.study import NOT_INDEPENDENT

# Tag of a version: its test figures in full precision, as JSON; the tags beside it are to be read.
TEST_FIGURES = "busi.test_figures"
AGAINST_CHAMPION = "busi.against_champion"
TEST_TAGS = ("auc", "aupr", "accuracy", "f1", "log_loss", "ece", "sensitivity", "specificity")


def log_evaluation(
    home: Home,
    version: RegisteredVersion,
    *,
    report: Mapping[str, Any],
    ledger: Sequence[Mapping[str, Any]],
    predictions: Mapping[str, Sequence[float]],
) -> None:
    """Keep a test report with its model: tags of the version, artifacts and metrics of its run.

    Args:
        home: where the stores are.
        version: the evaluated model.
        report: what ``evaluate --json`` prints.
        ledger: all entries of the study's ledger.
        predictions: probabilities by image name.
    """
    client = open_registry(home)
    figures = report["test"]
    tags = {f"busi.test_{name}": f"{figures[name]:.4f}" for name in TEST_TAGS}
    tags[TEST_FIGURES] = json.dumps({name: figures[name] for name in TEST_TAGS})
    tags["busi.test_auc_ci95"] = " to ".join(f"{value:.4f}" for value in figures["auc_ci95"])
    tags["busi.test_openings"] = str(report["openings"])
    tags[NOT_INDEPENDENT] = f"{report['num_test_not_independent']} of {figures['num_images']}"
    if "against_champion" in report:
        tags[AGAINST_CHAMPION] = json.dumps(report["against_champion"])
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    for name in TEST_TAGS:
        client.log_metric(version.run_id, f"test_{name}", figures[name])
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            (_report_name(version), report),
            (f"test_predictions_v{version.version}.json", predictions),
            ("test_ledger.json", list(ledger)),
        ):
            (Path(folder) / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
        client.log_artifacts(version.run_id, folder)


def evaluated_figures(home: Home, version: RegisteredVersion) -> dict[str, float] | None:
    """Return what a version scored on the sealed test, in full precision; None: not evaluated.

    Returns:
        Every name of ``TEST_TAGS``.
    """
    if TEST_FIGURES in version.tags:
        return dict(json.loads(version.tags[TEST_FIGURES]))
    if "busi.test_auc" not in version.tags:
        return None
    # Evaluated before versions had the tag: the report beside it is as exact.
    from mlflow.exceptions import MlflowException

    client = open_registry(home)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(version.run_id, _report_name(version), folder)
        except (MlflowException, OSError):
            return None
        report = json.loads(Path(path).read_text(encoding="utf-8"))
    return {name: float(report["test"][name]) for name in TEST_TAGS}


def _report_name(version: RegisteredVersion) -> str:
    return f"test_report_v{version.version}.json"
