"""The model registry: candidate, champion, previous champion."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from busi_search.errors import InputError
from busi_search.home import Home, create_tracking_store, quiet_mlflow

MODEL_NAME = "busi-classifier"
CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"


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


def named(name: str) -> str:
    """Return MLflow's filter for a registered model of this name.

    Raises:
        InputError: MLflow's filters cannot hold the name, so that no model is found by it.
    """
    if "'" not in name:
        return f"name = '{name}'"
    if '"' not in name:
        return f'name = "{name}"'
    raise InputError(f"--model {name}: a name with both kinds of quotation marks cannot be found.")


def has_files(home: Home, version: RegisteredVersion) -> bool:
    """Return whether the files of a version are where the registry says they are."""
    open_registry(home)
    import mlflow
    from mlflow.artifacts import list_artifacts
    from mlflow.exceptions import MlflowException

    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    try:
        return bool(list_artifacts(artifact_uri=f"models:/{version.name}/{version.version}"))
    except (MlflowException, OSError):
        return False


def list_versions(home: Home, *, name: str = MODEL_NAME) -> list[RegisteredVersion]:
    """Return all versions of a registered model, newest first; none if it does not exist."""
    client = open_registry(home)
    found = client.search_registered_models(named(name))
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
        for item in client.search_model_versions(named(name))
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


def describe(home: Home, version: RegisteredVersion, text: str) -> None:
    """Set what the registry says of a model version, in Markdown."""
    client = open_registry(home)
    with home.writing():
        client.update_model_version(version.name, version.version, description=text)


def current_champion(home: Home, *, name: str = MODEL_NAME) -> RegisteredVersion | None:
    """Return the champion, or None if there is none."""
    return next((v for v in list_versions(home, name=name) if CHAMPION in v.aliases), None)
