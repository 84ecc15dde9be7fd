"""What a home holds, as one JSON value: read with Optuna and MLflow only, by no code of ours."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.models import Model

# Files whose content is compared; pages and cards are for people, arrays are those of the storage.
COMPARED_FILES = (".json", ".toml")
PRESENT = "is there"


def record_home(home: Path) -> dict[str, Any]:
    """Return everything in a home that a user or another program may rely on."""
    url = f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(url, url)
    return {
        "optuna": record_optuna(f"sqlite:///{home / 'optuna.db'}"),
        "experiments": record_experiments(client),
        "models": record_models(client),
        "ledgers": record_ledgers(home),
        "layout": record_layout(home),
    }


def record_optuna(url: str) -> dict[str, Any]:
    """Return every study of a storage with all that it and its trials keep but their clocks."""
    studies = {}
    for name in optuna.get_all_study_names(url):
        study = optuna.load_study(study_name=name, storage=url)
        studies[name] = {
            "directions": [direction.name for direction in study.directions],
            "attributes": unfold(study.user_attrs),
            "trials": {
                str(trial.number): {
                    "state": trial.state.name,
                    "params": trial.params,
                    "distributions": {key: str(d) for key, d in trial.distributions.items()},
                    "values": trial.values,
                    # What Optuna is told became the mean over the folds so far.
                    "num_reports": len(trial.intermediate_values),
                    "attributes": unfold(trial.user_attrs | _hidden_attributes(trial)),
                }
                for trial in study.get_trials(deepcopy=False)
            },
        }
    return studies


def _hidden_attributes(trial: optuna.trial.FrozenTrial) -> dict[str, Any]:
    """Return what was a user attribute, and is kept where Optuna's dashboard does not show it."""
    ours = {k: v for k, v in trial.system_attrs.items() if k.startswith("busi:")}
    return {key.removeprefix("busi:"): value for key, value in ours.items()}


def record_experiments(client: MlflowClient) -> dict[str, Any]:
    """Return MLflow's experiments and their runs by name."""
    experiments = {}
    for experiment in client.search_experiments():
        runs = client.search_runs([experiment.experiment_id], max_results=1000)
        experiments[experiment.name] = {
            "id": experiment.experiment_id,
            "tags": unfold(experiment.tags),
            "artifact_location": experiment.artifact_location,
            "runs": {run.data.tags["mlflow.runName"]: record_run(client, run) for run in runs},
        }
    return experiments


def record_run(client: MlflowClient, run: Run) -> dict[str, Any]:
    """Return one run: its status, tags, parameters, curves, files and datasets."""
    used = run.inputs.dataset_inputs
    return {
        "id": run.info.run_id,
        "status": run.info.status,
        # Some tags of the old program are hidden from people now: their names begin with mlflow.
        "tags": unfold({k.replace("mlflow.busi.", "busi."): v for k, v in run.data.tags.items()}),
        "params": run.data.params,
        "metrics": {
            key: [[p.step, p.value] for p in client.get_metric_history(run.info.run_id, key)]
            for key in run.data.metrics
        },
        "files": record_files(run.info.artifact_uri),
        "datasets": {
            item.dataset.name: {
                **unfold(item.dataset.to_dictionary()),
                "tags": {tag.key: tag.value for tag in item.tags},
            }
            for item in used
        },
    }


def record_models(client: MlflowClient) -> dict[str, Any]:
    """Return the registered models with their aliases and versions."""
    return {
        model.name: {
            "description": model.description,
            "tags": model.tags,
            "aliases": {alias: str(version) for alias, version in model.aliases.items()},
            "versions": {
                str(version.version): {
                    "description": version.description,
                    "tags": unfold(version.tags),
                    "source": version.source,
                    "run_id": version.run_id,
                    "status": version.status,
                    "logged_model": record_logged_model(client, version.source),
                }
                for version in client.search_model_versions(f"name = '{model.name}'")
            },
        }
        for model in client.search_registered_models()
    }


def record_logged_model(client: MlflowClient, source: str) -> dict[str, Any]:
    """Return what MLflow keeps of the model that a version was made from."""
    logged = client.get_logged_model(source.removeprefix("models:/"))
    described = Model.load(str(local_path(logged.artifact_location)))
    assert described.signature is not None
    return {
        "id": logged.model_id,
        "name": logged.name,
        "tags": logged.tags,
        "params": logged.params,
        "metadata": described.metadata,
        "signature": unfold(described.signature.to_dict()),
        "flavors": sorted(described.flavors),
        "files": record_files(logged.artifact_location),
        "weights": record_weights(local_path(logged.artifact_location) / "data" / "model.pt2"),
    }


def record_weights(path: Path) -> dict[str, int]:
    """Return a checksum of every tensor in an exported program, by its name in the archive."""
    with zipfile.ZipFile(path) as archive:
        return {
            item.filename: item.CRC
            for item in archive.infolist()
            if "/weights/" in item.filename or "/constants/" in item.filename
        }


def record_files(uri: str) -> dict[str, Any]:
    """Return the files under an artifact URI by path; those that are data with their content."""
    root = local_path(uri)
    return {
        path.relative_to(root).as_posix(): unfold(path.read_text(encoding="utf-8"))
        if path.suffix in COMPARED_FILES
        else PRESENT
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def local_path(uri: str) -> Path:
    """Return the path of a ``file:`` URI."""
    return Path(unquote(urlsplit(uri).path))


def record_ledgers(home: Path) -> dict[str, Any]:
    """Return the entries of every study's ledger of the sealed test, oldest first."""
    return {
        path.parent.name: [json.loads(line) for line in path.read_text().splitlines()]
        for path in home.glob("studies/*/ledger.jsonl")
    }


def record_layout(home: Path) -> dict[str, Any]:
    """Return the files that a home keeps beside artifacts, caches and locks."""
    kept = (path.relative_to(home) for path in home.rglob("*") if path.is_file())
    return {
        path.as_posix(): PRESENT
        for path in kept
        if path.parts[0] not in ("artifacts", "cache")
        and path.suffix not in (".lock", ".db-wal", ".db-shm", ".db-journal")
    }


def unfold(value: Any) -> Any:
    """Return a JSON value with the JSON texts in it read: keys may be added there, too."""
    if isinstance(value, Mapping):
        return {str(key): unfold(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unfold(item) for item in value]
    if isinstance(value, str) and value.startswith(("{", "[")):
        try:
            return unfold(json.loads(value))
        except ValueError:
            return value
    return value


def identities(record: Mapping[str, Any], place: Path) -> dict[str, str]:
    """Return what stands for each random identity and for the folder that a home was made in."""
    names = {str(place): "PLACE"}
    for experiment, found in record["experiments"].items():
        for name, run in found["runs"].items():
            names[run["id"]] = f"run {name} of {experiment}"
    for model, found in record["models"].items():
        for number, version in found["versions"].items():
            names[version["logged_model"]["id"]] = f"model of {model} {number}"
    return names


def rename(value: Any, names: Mapping[str, str]) -> Any:
    """Return a JSON value in which identities are replaced by what stands for them."""
    text = json.dumps(value, ensure_ascii=False)
    for identity, name in names.items():
        text = text.replace(identity, name)
    return json.loads(text)
