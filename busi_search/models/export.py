"""A model into the registry: exported without pickle, logged to a run, and registered once."""

import json
import tempfile
import time
import warnings
from collections.abc import Mapping
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from busi_search.errors import BusiSearchError
from busi_search.files import check_free_space, ensure_temporary_room
from busi_search.home import Home, without_password
from busi_search.models import flavor
from busi_search.models.registry import (
    TASK,
    RegisteredVersion,
    find_version,
    named,
    open_registry,
)
from busi_search.models.served import column_types
from busi_search.search.mlflow.retry import brief_calls

# What may pass by itself, how long to wait for it, and for one answer.
PASSING_ERRORS = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")
REGISTRY_PAUSES_SECONDS = (0, 1, 2, 4, 8, 16, 32)
# A file answers, or will not: a full disk is not waited for.
LOCAL_PAUSES_SECONDS = (0, 1)
REGISTRY_CALL_SECONDS = 120
# MLflow's tag of a logged model, from which its page knows that it is registered.
MODEL_VERSIONS = "mlflow.modelVersions"


def register_version(
    home: Home,
    model: torch.nn.Module,
    *,
    experiment_id: str,
    run_id: str,
    size_pixels: int,
    num_regions: int,
    metadata: Mapping[str, Any],
    tags: Mapping[str, str],
    description: str,
    name: str,
    task: str,
    step: int = 0,
) -> RegisteredVersion:
    """Export a model as pt2, log it to a run, and register it, without an alias yet.

    The exported program contains normalisation, the softmax and the average of the folds; what is
    left to do before it (grey, square, 0 to 255) is written into the model's metadata.

    Args:
        home: where the stores are.
        model: (N, 1, S, S) grey pixels in, (N, C) probabilities out; in evaluation mode, on the
            CPU.
        experiment_id: of the study's experiment.
        run_id: of the study run.
        size_pixels: side S of the input.
        num_regions: K, how many regions of an image it sees.
        metadata: what a user of the model must know; stored inside it.
        tags: tags of the version.
        description: Markdown text of the version.
        name: of the registered model.
        task: what it tells apart, in words.
        step: of the run's metrics at which the model was made: MLflow shows those with it.

    Raises:
        BusiSearchError: the registry refuses.
    """
    client = open_registry(home)
    # Written once as a program, and once more for MLflow; a full disk would end the process.
    num_bytes = 3 * sum(t.numel() * t.element_size() for t in model.state_dict().values())
    ensure_temporary_room(home.temporary, num_bytes)
    check_free_space(Path(tempfile.gettempdir()), num_bytes)
    check_free_space(home.root, num_bytes)
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    # A logged model goes to the active experiment, whatever run it is given.
    mlflow.set_experiment(experiment_id=experiment_id)
    # Without names: MLflow's own server hands named tensors over as a dict, and then refuses it.
    shape = (num_regions, size_pixels, size_pixels)
    pixels = TensorSpec(np.dtype("float32"), (-1, *shape))
    answer: list[ColSpec | TensorSpec] = [
        ColSpec(kind, column, required=column not in ("unlike", "distance", "limit"))
        for column, kind in column_types(tuple(metadata["busi_search"]["class_names"])).items()
    ]
    torch_version = package_version("torch").partition("+")[0]
    try:
        with warnings.catch_warnings():
            # torch.export speaks of tensors shared between devices; there is one device here.
            warnings.simplefilter("ignore", UserWarning)
            info = Model.log(
                artifact_path=None,
                flavor=flavor,
                pytorch_model=model.eval(),
                name="model",
                run_id=run_id,
                signature=ModelSignature(Schema([pixels]), Schema(answer)),
                input_example=np.zeros((2, *shape), dtype=np.float32),
                pip_requirements=[
                    f"torch=={torch_version}",
                    f"numpy=={package_version('numpy')}",
                    f"pandas=={package_version('pandas')}",
                    f"pillow=={package_version('pillow')}",
                    f"mlflow=={package_version('mlflow')}",
                ],
                metadata=dict(metadata),
                serialization_format="pt2",
                step=step,
                # What was registered is loaded and compared afterwards; not here too.
                validate_serving_input=False,
            )
        _create_model(client, name, task)
        number = _create_version(
            home,
            name,
            source=info.model_uri,
            run_id=run_id,
            tags=dict(tags),
            description=description,
            model_id=info.model_id,
        )
        _name_version(client, info.model_id, name, number)
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


def _name_version(client: Any, model_id: str, name: str, number: str) -> None:
    """Say on the page of a logged model which version it is, as MLflow's own registering does."""
    versions = [{"name": name, "version": number}]
    client.set_logged_model_tags(model_id, {MODEL_VERSIONS: json.dumps(versions)})


def logged_model_of(home: Home, version: RegisteredVersion) -> str | None:
    """Return the id of the logged model that a version was made from; None: it is not known."""
    found = open_registry(home).get_model_version(version.name, version.version)
    source = str(found.source)
    return source.removeprefix("models:/") if source.startswith("models:/m-") else None


def _versions_of(client: Any, name: str, source: str) -> list[int]:
    found = client.search_model_versions(named(name))
    return sorted(int(version.version) for version in found if version.source == source)


def _create_model(client: Any, name: str, task: str) -> None:
    """Create the registered model unless it is there; another study may do so meanwhile."""
    from mlflow.exceptions import MlflowException

    if client.search_registered_models(named(name)):
        return
    try:
        client.create_registered_model(
            name,
            tags={TASK: task},
            description=f"Breast-ultrasound classifiers found by busi-search: {task}.",
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
