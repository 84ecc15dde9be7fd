"""What a version scored on the sealed test, kept with it."""

import json
import shlex
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from busi_search.data.ledger import Entry, anchor_of
from busi_search.errors import InputError
from busi_search.files import without_nan
from busi_search.home import Home
from busi_search.models.export import logged_model_of
from busi_search.models.registry import RegisteredVersion, open_registry
from busi_search.search.mlflow.ledger_anchor import LEDGER_TAG
from busi_search.search.mlflow.lookup import HIDDEN, find_run, is_deleted
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.mlflow.study import NOT_INDEPENDENT
from busi_search.search.seal_ledger import OPENINGS_TAG

# Tag of a version: its test figures in full precision, as JSON; the tags beside it are to be read.
TEST_FIGURES = "busi.test_figures"
AGAINST_CHAMPION = "busi.against_champion"
AGAINST_BEST = "busi.against_best_champion"
TEST_TAGS = ("auc", "aupr", "accuracy", "f1", "log_loss", "ece", "sensitivity", "specificity")
# Not known of versions that were evaluated earlier, nor where the images say nothing of one.
CALIBRATION_TAGS = (
    "calibration_intercept",
    "calibration_slope",
    "observed_expected",
    "calibration_error",
    "ece_if_calibrated",
)


# Tag of a version: the run that its evaluation is kept with, where its own is gone.
EVALUATION_RUN = "busi.evaluation_run"


def find_recording_run(home: Home, version: RegisteredVersion, study_run: str | None) -> str:
    """Return the run that a version's evaluation can be written to, after writing to it once.

    Asked before a sealed test is opened: an opening is counted, whatever becomes of its figures.

    Args:
        home: where the stores are.
        version: the model.
        study_run: the run of its study, for a version whose own run is gone.

    Raises:
        InputError: these runs were deleted; the sentence says how they come back.
        BusiSearchError: the tracking store does not take anything.
    """
    candidates = [version.tags.get(EVALUATION_RUN), version.run_id, study_run]
    with tracking_errors(home):
        client = open_registry(home)
        for run_id in dict.fromkeys(filter(None, candidates)):
            run = find_run(client, run_id)
            if run is not None and not is_deleted(run):
                with home.writing():
                    client.set_tag(
                        run_id, f"{HIDDEN}busi.asked_at", time.strftime("%Y-%m-%dT%H:%M:%S%z")
                    )
                return run_id
    line = shlex.join(["busi-search", "sync", version.tags.get("busi.study", "NAME")])
    raise InputError(
        f"The MLflow run of version {version.version} of '{version.name}' was deleted, and nothing "
        f"could be kept with it; `{line}` brings it back."
    )


def run_of_evaluation(version: RegisteredVersion) -> str:
    """Return the run that a version's evaluation is kept with."""
    return version.tags.get(EVALUATION_RUN) or version.run_id


def log_evaluation(
    home: Home,
    version: RegisteredVersion,
    *,
    report: Mapping[str, Any],
    ledger: Sequence[Entry],
    predictions: Mapping[str, Sequence[float]],
    run_id: str,
) -> None:
    """Keep a test report with its model: tags of the version, artifacts and metrics of its run.

    Args:
        home: where the stores are.
        version: the evaluated model.
        report: what ``evaluate --json`` prints.
        ledger: all entries of the study's ledger.
        predictions: probabilities by image name.
        run_id: the run that takes metrics and artifacts.
    """
    client = open_registry(home)
    figures = _known_figures(report["test"])
    tags = {f"busi.test_{name}": f"{found:.4f}" for name, found in figures.items()}
    tags[TEST_FIGURES] = json.dumps(without_nan(_kept_figures(report["test"])))
    limits = report["test"]["auc_ci95"]
    tags["busi.test_auc_ci95"] = (
        "no interval" if None in limits else " to ".join(f"{value:.4f}" for value in limits)
    )
    tags[OPENINGS_TAG] = str(report["openings"])
    num_images = report["test"]["num_images"]
    tags[NOT_INDEPENDENT] = f"{report['num_test_not_independent']} of {num_images}"
    tags[LEDGER_TAG] = anchor_of(ledger)
    if run_id != run_of_evaluation(version):
        tags[EVALUATION_RUN] = run_id
    for tag in (AGAINST_CHAMPION, AGAINST_BEST):
        if tag.removeprefix("busi.") in report:
            tags[tag] = json.dumps(without_nan(report[tag.removeprefix("busi.")]))
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    _log_metrics(client, home, version, run_id, {f"test_{n}": v for n, v in figures.items()})
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            (_report_name(version), report),
            (_predictions_name(version), predictions),
            ("test_ledger.json", list(ledger)),
        ):
            (Path(folder) / name).write_text(
                json.dumps(without_nan(content), indent=1), encoding="utf-8"
            )
        client.log_artifacts(run_id, folder)


def _log_metrics(
    client: Any, home: Home, version: RegisteredVersion, run_id: str, figures: Mapping[str, float]
) -> None:
    """Store figures on a run, and on the logged model of the version with the dataset's name."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    whose: dict[str, Any] = {}
    if (model_id := logged_model_of(home, version)) is not None:
        whose = {"model_id": model_id, "run_id": run_id}
        if {"busi.dataset", "busi.fingerprint"} <= version.tags.keys():
            whose["dataset_name"] = version.tags["busi.dataset"]
            whose["dataset_digest"] = version.tags["busi.fingerprint"]
    metrics = [Metric(key, value, now, 0, **whose) for key, value in figures.items()]
    client.log_batch(run_id, metrics=metrics)


def _kept_figures(figures: Mapping[str, Any]) -> dict[str, float]:
    """Take from the figures of a report what the gate asks for."""
    low, high = figures["auc_ci95"]
    of_positive = figures["per_class"][figures["positive_class"]]
    return {
        **_known_figures(figures),
        **_error_limits(figures),
        "auc_low": low,
        "auc_high": high,
        "num_images": figures["num_images"],
        "num_positive": of_positive["num_images"],
    }


def evaluated_figures(home: Home, version: RegisteredVersion) -> dict[str, float] | None:
    """Return what a version scored on the sealed test, in full precision; None: not evaluated.

    Returns:
        Every name of ``TEST_TAGS``, the limits ``auc_low`` and ``auc_high`` of the AUC's 95 %
        interval, and ``num_images`` and ``num_positive``: test images, malignant ones; of
        ``CALIBRATION_TAGS`` those that are known, and with ``calibration_error`` the limits of its
        interval, ``calibration_error_low`` and ``_high``.
    """
    kept = dict(json.loads(version.tags.get(TEST_FIGURES, "{}")))
    if "num_images" in kept:
        return kept
    if "busi.test_auc" not in version.tags:
        return None
    # Evaluated before versions had all of this in the tag: the report beside it is as exact.
    report = _artifact(home, version, _report_name(version))
    return None if report is None else _kept_figures(report["test"])


def stored_predictions(home: Home, version: RegisteredVersion) -> dict[str, list[float]] | None:
    """Return what a version answered when the sealed test was opened for it; None: not kept.

    Returns:
        Probabilities of the C classes by image name.
    """
    found: dict[str, list[float]] | None = _artifact(home, version, _predictions_name(version))
    return found


def _artifact(home: Home, version: RegisteredVersion, name: str) -> Any:
    """Return a JSON artifact of a version's run; None if it is not there."""
    from mlflow.exceptions import MlflowException

    client = open_registry(home)
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = client.download_artifacts(run_of_evaluation(version), name, folder)
        except (MlflowException, OSError):
            return None
        return json.loads(Path(path).read_text(encoding="utf-8"))


def _known_figures(test: Mapping[str, Any]) -> dict[str, float]:
    names = (*TEST_TAGS, *CALIBRATION_TAGS)
    return {name: float(test[name]) for name in names if test.get(name) is not None}


def _error_limits(test: Mapping[str, Any]) -> dict[str, float]:
    if test.get("calibration_error") is None:
        return {}
    low, high = test["calibration_error_ci95"]
    return {"calibration_error_low": float(low), "calibration_error_high": float(high)}


def _report_name(version: RegisteredVersion) -> str:
    return f"test_report_v{version.version}.json"


def _predictions_name(version: RegisteredVersion) -> str:
    return f"test_predictions_v{version.version}.json"
