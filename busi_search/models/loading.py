"""From a registered version to a model that answers."""

import hashlib
import os
from pathlib import Path

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home, create_tracking_store, open_home, quiet_mlflow
from busi_search.models.predict import Classifier
from busi_search.models.registry import CHAMPION, MODEL_NAME, RegisteredVersion, find_version
from busi_search.models.seal_watch import SealWatch


def load_champion(
    home: Home | str | Path | None = None, model_uri: str | None = None
) -> Classifier:
    """Load a registered model; no pickle is ever opened.

    Example::

        import busi_search as bs
        bs.load_champion().predict("images")

    Args:
        home: where the registry is (default ``./mlruns``).
        model_uri: such as ``models:/busi-classifier/3`` or ``models:/busi-classifier@candidate``;
            default the champion.

    Raises:
        InputError: no such model, or no champion yet.
        BusiSearchError: the model is damaged, is not a pt2 export, or was not made by busi-search.
    """
    home = home if isinstance(home, Home) else open_home(home)
    name, version = _parse_uri(model_uri)
    found = find_version(home, version, name=name)
    uri = f"models:/{found.name}/{found.version}"
    create_tracking_store(home)
    quiet_mlflow()
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    import mlflow.pytorch
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model

    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    try:
        folder = download_artifacts(uri)
        description = Model.load(folder)
        metadata = dict((description.metadata or {}).get("busi_search") or {})
        if not metadata or not (Path(folder) / "data" / "model.pt2").is_file():
            raise BusiSearchError(f"{uri} is not a pt2 model made by busi-search; it is refused.")
        weights = Path(folder) / "data" / "model.pt2"
        metadata["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        module = mlflow.pytorch.load_model(folder)
    except BusiSearchError:
        raise
    except (MlflowException, OSError, RuntimeError, ValueError) as error:
        raise BusiSearchError(
            f"{uri} cannot be loaded ({str(error).splitlines()[0]}); "
            "promote or name another version."
        ) from error
    metadata |= {"name": found.name, "version": found.version, "run_id": found.run_id}
    metadata["tags"] = found.tags
    return Classifier(module, metadata, uri, SealWatch(home, found.name, found.version))


def version_of_uri(home: Home, model_uri: str) -> RegisteredVersion:
    """Return the version that an address such as ``models:/busi-classifier@champion`` names.

    Raises:
        InputError: it is no such address, or there is no such version.
    """
    name, version = _parse_uri(model_uri)
    return find_version(home, version, name=name)


def _parse_uri(model_uri: str | None) -> tuple[str | None, str]:
    if model_uri is None:
        return None, CHAMPION
    rest = model_uri.removeprefix("models:/")
    for separator in ("/", "@"):
        name, found, version = rest.rpartition(separator)
        if model_uri.startswith("models:/") and found and name and version:
            return name, version
    raise InputError(
        f"{model_uri}: expected a model such as models:/{MODEL_NAME}@candidate "
        f"or models:/{MODEL_NAME}/3."
    )
