"""The model registry: candidate, champion, previous champion."""

import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home, create_tracking_store, quiet_mlflow, without_password
from busi_search.models.ensemble import FoldEnsemble
from busi_search.search.mlflow.retry import brief_calls

MODEL_NAME = "busi-classifier"
CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
# What may pass by itself, how long to wait for it, and for one answer.
PASSING_ERRORS = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
REGISTRY_PAUSES_SECONDS = (0, 1, 2, 4, 8, 16, 32)
# A file answers, or will not: a full disk is not waited for.
LOCAL_PAUSES_SECONDS = (0, 1)
REGISTRY_CALL_SECONDS = 120
# Tag of a version: its test figures in full precision, as JSON; the tags beside it are to be read.
TEST_FIGURES = "busi.test_figures"
AGAINST_CHAMPION = "busi.against_champion"
TEST_TAGS = ("auc", "aupr", "accuracy", "f1", "log_loss", "ece", "sensitivity", "specificity")


@dataclass(frozen=True)
class RegisteredVersion:
    """One version of a registered model."""

    name: str
    version: str
    run_id: str
    aliases: tuple[str, ...]
    tags: dict[str, str]

    @property
    def simulated(self) -> bool:
        """Whether it was trained on phantoms."""
        return self.tags.get("busi.simulated") == "true"

    def to_json(self) -> dict[str, Any]:
        """Return the version as ``busi-search models --json`` prints it."""
        return asdict(self)


def open_registry(home: Home) -> Any:
    """Return an MLflow client of the home's registry, its database made ready."""
    create_tracking_store(home)
    quiet_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)


def register_version(
    home: Home,
    model: FoldEnsemble,
    *,
    experiment_id: str,
    run_id: str,
    size_pixels: int,
    num_classes: int,
    metadata: Mapping[str, Any],
    tags: Mapping[str, str],
    description: str,
    name: str = MODEL_NAME,
) -> RegisteredVersion:
    """Export a model as pt2, log it to a run, and register it, without an alias yet.

    The exported program contains normalisation, the softmax and the average of the folds; what is
    left to do before it (grey, square, 0 to 255) is written into the model's metadata.

    Args:
        home: where the stores are.
        model: the ensemble, in evaluation mode, on the CPU.
        experiment_id: of the study's experiment.
        run_id: of the study run.
        size_pixels: side S of the input.
        num_classes: C.
        metadata: what a user of the model must know; stored inside it.
        tags: tags of the version.
        description: Markdown text of the version.
        name: of the registered model.

    Raises:
        BusiSearchError: the registry refuses.
    """
    client = open_registry(home)
    import mlflow.pytorch
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    # A logged model goes to the active experiment, whatever run it is given.
    mlflow.set_experiment(experiment_id=experiment_id)
    # Without names: MLflow's own server hands named tensors over as a dict, and then refuses it.
    pixels = TensorSpec(np.dtype("float32"), (-1, 1, size_pixels, size_pixels))
    probabilities = TensorSpec(np.dtype("float32"), (-1, num_classes))
    torch_version = package_version("torch").partition("+")[0]
    try:
        with warnings.catch_warnings():
            # torch.export speaks of tensors shared between devices; there is one device here.
            warnings.simplefilter("ignore", UserWarning)
            info = mlflow.pytorch.log_model(
                model.eval(),
                name="model",
                run_id=run_id,
                signature=ModelSignature(Schema([pixels]), Schema([probabilities])),
                input_example=np.zeros((2, 1, size_pixels, size_pixels), dtype=np.float32),
                pip_requirements=[
                    f"torch=={torch_version}",
                    f"numpy=={package_version('numpy')}",
                    f"mlflow=={package_version('mlflow')}",
                ],
                metadata=dict(metadata),
                serialization_format="pt2",
                # What was registered is loaded and compared afterwards; not here too.
                validate_serving_input=False,
            )
        _create_model(client, name)
        number = _create_version(
            home,
            name,
            source=info.model_uri,
            run_id=run_id,
            tags=dict(tags),
            description=description,
            model_id=info.model_id,
        )
    except MlflowException as error:
        raise BusiSearchError(
            f"The model registry at {without_password(home.tracking_uri)} refused the model: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return find_version(home, number, name=name)


def _create_version(home: Home, name: str, *, source: str, **options: Any) -> str:
    """Create a version of a source and return its number; there is one, whatever answers are lost.

    MLflow's client would repeat a call whose answer is lost, or that failed after the version was
    made, and make a second. Here the registry is asked what there is before anything is repeated.
    """
    from mlflow.exceptions import MlflowException

    client = open_registry(home)
    local = home.tracking_database is not None
    problem: MlflowException | None = None
    for pause in LOCAL_PAUSES_SECONDS if local else REGISTRY_PAUSES_SECONDS:
        time.sleep(pause)
        if not _versions_of(client, name, source):
            try:
                with brief_calls(REGISTRY_CALL_SECONDS), home.writing():
                    client.create_model_version(name, source=source, **options)
            except MlflowException as error:
                if error.error_code not in PASSING_ERRORS:
                    raise
                problem = error
        found = _versions_of(client, name, source)
        # A call that was given up may have been answered late.
        for number in found[1:]:
            client.delete_model_version(name, str(number))
        if found:
            return str(found[0])
    assert problem is not None
    raise problem


def _versions_of(client: Any, name: str, source: str) -> list[int]:
    found = client.search_model_versions(f"name = '{name}'")
    return sorted(int(version.version) for version in found if version.source == source)


def _create_model(client: Any, name: str) -> None:
    """Create the registered model unless it is there; another study may do so meanwhile."""
    from mlflow.exceptions import MlflowException

    if client.search_registered_models(f"name = '{name}'"):
        return
    try:
        client.create_registered_model(
            name, description="Breast-ultrasound classifiers found by busi-search."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def list_versions(home: Home, *, name: str = MODEL_NAME) -> list[RegisteredVersion]:
    """Return all versions of a registered model, newest first; none if it does not exist."""
    client = open_registry(home)
    found = client.search_registered_models(f"name = '{name}'")
    if not found:
        return []
    aliases: dict[str, list[str]] = {}
    for alias, version in found[0].aliases.items():
        aliases.setdefault(str(version), []).append(alias)
    versions = [
        RegisteredVersion(
            name=name,
            version=str(item.version),
            run_id=item.run_id or "",
            aliases=tuple(sorted(aliases.get(str(item.version), []))),
            tags=dict(item.tags),
        )
        for item in client.search_model_versions(f"name = '{name}'")
    ]
    return sorted(versions, key=lambda item: int(item.version), reverse=True)


def find_version(home: Home, version_or_alias: str, *, name: str = MODEL_NAME) -> RegisteredVersion:
    """Return a version by number or alias.

    Raises:
        InputError: there is none; the sentence says how to get one.
    """
    versions = list_versions(home, name=name)
    for item in versions:
        if item.version == version_or_alias or version_or_alias in item.aliases:
            return item
    if not versions:
        raise InputError(
            f"No model '{name}' is registered in {home.root}; "
            "`busi-search run` registers the winner of a search."
        )
    if version_or_alias == CHAMPION:
        raise InputError(
            f"'{name}' has no champion yet; `busi-search promote` makes the candidate the "
            "champion, or name a version with --model-uri."
        )
    known = ", ".join(item.version for item in reversed(versions))
    raise InputError(f"'{name}' has no version or alias '{version_or_alias}'; versions: {known}.")


def make_candidate(home: Home, version: RegisteredVersion) -> RegisteredVersion:
    """Point ``candidate`` at a version whose export was checked."""
    client = open_registry(home)
    with home.writing():
        client.set_registered_model_alias(version.name, CANDIDATE, version.version)
    return find_version(home, version.version, name=version.name)


def add_tags(home: Home, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
    """Set tags of a model version."""
    client = open_registry(home)
    with home.writing():
        for key, value in tags.items():
            client.set_model_version_tag(version.name, version.version, key, value)


def current_champion(home: Home, *, name: str = MODEL_NAME) -> RegisteredVersion | None:
    """Return the champion, or None if there is none."""
    return next((v for v in list_versions(home, name=name) if CHAMPION in v.aliases), None)


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
