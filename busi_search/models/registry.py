"""The model registry: candidate, champion, previous champion."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from busi_search.errors import InputError
from busi_search.home import Home, create_tracking_store, quiet_mlflow

# The registered model of BUSI's three classes; in earlier versions that of all studies.
MODEL_NAME = "busi-classifier"
PHANTOM_MODEL = f"{MODEL_NAME}-phantom"
# Tag of a registered model that busi-search made: the classes it tells apart.
TASK = "busi.task"
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

    @property
    def place(self) -> dict[str, str]:
        """Where it is registered, as the JSON of a report names it."""
        return {"name": self.name, "version": self.version, "run_id": self.run_id}

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


def model_names(home: Home) -> list[str]:
    """Return the registered models of busi-search, ``busi-classifier`` first, then by name."""
    client = open_registry(home)
    filters = (f"name LIKE '{MODEL_NAME}%'", f"tags.`{TASK}` LIKE '%'")
    found = {str(m.name) for text in filters for m in client.search_registered_models(text)}
    return sorted(found, key=lambda name: (name != MODEL_NAME, name))


def list_versions(home: Home, *, name: str | None = None) -> list[RegisteredVersion]:
    """Return all versions of a registered model, newest first; none if it does not exist.

    Args:
        home: where the stores are.
        name: of the registered model; None means all of them, one after the other.
    """
    if name is None:
        return [found for one in model_names(home) for found in list_versions(home, name=one)]
    client = open_registry(home)
    models = client.search_registered_models(named(name))
    if not models:
        return []
    aliases: dict[str, list[str]] = {}
    for alias, version in models[0].aliases.items():
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


def find_version(
    home: Home, version_or_alias: str, *, name: str | None = None
) -> RegisteredVersion:
    """Return a version by number or alias.

    Args:
        home: where the stores are.
        version_or_alias: such as ``3`` or ``candidate``.
        name: of the registered model. None: the first one that has it, see
            :func:`matching_versions`. ``busi-classifier``, where no model is called so: the only
            registered model, for in earlier versions every model had this name.

    Raises:
        InputError: there is none, or a number means several; the sentence says how to go on.
    """
    if name == MODEL_NAME and (names := model_names(home)) != [] and MODEL_NAME not in names:
        name = names[0] if len(names) == 1 else name
    found = matching_versions(home, version_or_alias, name=name)
    if not found:
        raise _no_version(home, version_or_alias, name)
    first, rest = found[0], [other for other in found[1:] if not other.simulated]
    if version_or_alias.isdecimal() and not first.simulated and rest:
        several = ", ".join(other.name for other in (first, *rest))
        raise InputError(
            f"Several models have a version {version_or_alias}: {several}. Name one with --model "
            f"or as models:/{first.name}/{version_or_alias}."
        )
    return first


def matching_versions(
    home: Home, version_or_alias: str, *, name: str | None = None
) -> list[RegisteredVersion]:
    """Return the versions that a number or an alias may mean, the likeliest first.

    Models of real images come before models of phantoms, then ``busi-classifier`` before others.

    Args: as :func:`find_version`.
    """
    found = [
        item
        for item in list_versions(home, name=name)
        if item.version == version_or_alias or version_or_alias in item.aliases
    ]
    return sorted(found, key=lambda item: item.simulated)


def choice_note(
    home: Home, version_or_alias: str, chosen: RegisteredVersion, *, name: str | None
) -> str | None:
    """Return which model is meant, and which others were possible; None if there was no choice.

    Args: as :func:`find_version`, and ``chosen``, what it returned.
    """
    found = [] if name else matching_versions(home, version_or_alias)
    others = [item.name for item in found if item.name != chosen.name]
    if not others:
        return None
    return (
        f"Using {chosen.name} version {chosen.version}; {', '.join(others)} also "
        f"{'has' if len(others) == 1 else 'have'} a {version_or_alias} (choose with --model NAME)."
    )


def _no_version(home: Home, version_or_alias: str, name: str | None) -> InputError:
    """Return why there is no such version, and how to get one."""
    versions = list_versions(home, name=name)
    if not versions:
        others = model_names(home) if name else []
        there = f"; there are {', '.join(others)}" if others else ""
        which = f"No model '{name}'" if name else "No model"
        return InputError(
            f"{which} is registered in {home.root}{there}. "
            "`busi-search run` registers the winner of a search."
        )
    names = sorted({item.name for item in versions})
    have = f"{' and '.join(map(repr, names))} {'has' if len(names) == 1 else 'have'}"
    if version_or_alias == CHAMPION:
        return InputError(
            f"{have} no champion yet; `busi-search promote` makes the candidate the "
            "champion, or name a version with --model-uri."
        )
    several = len(names) > 1
    known = [f"{v.name} {v.version}" if several else v.version for v in reversed(versions)]
    return InputError(
        f"{have} no version or alias '{version_or_alias}'; versions: {', '.join(known)}."
    )


def make_candidate(home: Home, version: RegisteredVersion) -> RegisteredVersion:
    """Point ``candidate`` at a version whose export was checked.

    A version of phantoms never takes the alias from one of real images: it stays without.
    """
    client = open_registry(home)
    before = matching_versions(home, CANDIDATE, name=version.name)
    if version.simulated and before and not before[0].simulated:
        return find_version(home, version.version, name=version.name)
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


def current_champion(home: Home, *, name: str | None = None) -> RegisteredVersion | None:
    """Return the champion, or None if there is none.

    Args: as :func:`find_version`.
    """
    return next(iter(matching_versions(home, CHAMPION, name=name)), None)
