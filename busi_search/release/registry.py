"""The model registry: candidate, champion, previous champion."""

import getpass
import json
import tempfile
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn

from busi_search.errors import BusiSearchError, GateRefused, InputError
from busi_search.home import Home, create_tracking_store, quiet_mlflow, without_password
from busi_search.training.zoo import ImageClassifier

MODEL_NAME = "busi-classifier"
CANDIDATE = "candidate"
CHAMPION = "champion"
PREVIOUS_CHAMPION = "previous_champion"
# Attribute of an Optuna study that names the version it registered.
RELEASED = "released"
TEST_TAGS = ("auc", "aupr", "accuracy", "f1", "log_loss", "ece", "sensitivity", "specificity")


class FoldEnsemble(nn.Module):
    """The models of all folds, averaged and calibrated: grey pixels in, probabilities out."""

    def __init__(self, models: Sequence[ImageClassifier], temperature: float = 1.0) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)
        self.temperature = temperature

    def forward(self, pixels: Tensor) -> Tensor:
        """Map (N, 1, S, S) float32 grey levels in [0, 255] to (N, C) probabilities."""
        rows = [torch.softmax(model(pixels), dim=1) for model in self.models]
        average = torch.stack(rows).mean(dim=0)
        return torch.softmax(average.clamp_min(1e-20).log() / self.temperature, dim=1)


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


def _client(home: Home) -> Any:
    create_tracking_store(home)
    quiet_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=home.tracking_uri, registry_uri=home.tracking_uri)


def register_candidate(
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
    """Export a model as pt2, log it to a run, register it, and point ``candidate`` at it.

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
    client = _client(home)
    import mlflow.pytorch
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    mlflow.set_tracking_uri(home.tracking_uri)
    mlflow.set_registry_uri(home.tracking_uri)
    # A logged model goes to the active experiment, whatever run it is given.
    mlflow.set_experiment(experiment_id=experiment_id)
    pixels = TensorSpec(np.dtype("float32"), (-1, 1, size_pixels, size_pixels), name="pixels")
    probabilities = TensorSpec(np.dtype("float32"), (-1, num_classes), name="probabilities")
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
            )
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(
                name, description="Breast-ultrasound classifiers found by busi-search."
            )
        created = client.create_model_version(
            name,
            source=info.model_uri,
            run_id=run_id,
            tags=dict(tags),
            description=description,
            model_id=info.model_id,
        )
        client.set_registered_model_alias(name, CANDIDATE, created.version)
    except MlflowException as error:
        raise BusiSearchError(
            f"The model registry at {without_password(home.tracking_uri)} refused the model: "
            f"{str(error).splitlines()[0]}"
        ) from error
    return find_version(home, str(created.version), name=name)


def list_versions(home: Home, *, name: str = MODEL_NAME) -> list[RegisteredVersion]:
    """Return all versions of a registered model, newest first; none if it does not exist."""
    client = _client(home)
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


def add_tags(home: Home, version: RegisteredVersion, tags: Mapping[str, str]) -> None:
    """Set tags of a model version."""
    client = _client(home)
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
    client = _client(home)
    figures = report["test"]
    tags = {f"busi.test_{name}": f"{figures[name]:.4f}" for name in TEST_TAGS}
    tags["busi.test_auc_ci95"] = " to ".join(f"{value:.4f}" for value in figures["auc_ci95"])
    tags["busi.test_openings"] = str(report["openings"])
    if "against_champion" in report:
        tags["busi.against_champion"] = json.dumps(report["against_champion"])
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    for name in TEST_TAGS:
        client.log_metric(version.run_id, f"test_{name}", figures[name])
    with tempfile.TemporaryDirectory() as folder:
        for name, content in (
            (f"test_report_v{version.version}.json", report),
            (f"test_predictions_v{version.version}.json", predictions),
            ("test_ledger.json", list(ledger)),
        ):
            (Path(folder) / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
        client.log_artifacts(version.run_id, folder)


@dataclass(frozen=True)
class Gate:
    """What a candidate must hold to become champion.

    Attributes:
        max_auc_drop: the candidate's AUC on the sealed test may be lower than the champion's by
            at most this.
        min_sensitivity: on the sealed test, at the operating point; None for no limit.
        max_ece: expected calibration error on the sealed test; None for no limit.
    """

    max_auc_drop: float = 0.02
    min_sensitivity: float | None = None
    max_ece: float | None = None


@dataclass(frozen=True)
class Decision:
    """What a promotion did, and why."""

    decision: str
    reasons: tuple[str, ...]
    champion: RegisteredVersion
    previous_champion: RegisteredVersion | None


def promote(
    home: Home,
    *,
    version: str | None = None,
    name: str = MODEL_NAME,
    gate: Gate | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Decision:
    """Point ``champion`` at a version (default: the candidate), remembering the one before.

    Args:
        home: where the stores are.
        version: number or alias.
        name: of the registered model.
        gate: limits (default: :class:`Gate`'s own).
        force: promote although the gate refuses.
        reason: why; needed with ``force``, and recorded.

    Raises:
        InputError: no such version, or ``force`` without a reason.
        GateRefused: the gate says no; nothing was changed.
    """
    check_force(force, reason)
    client = _client(home)
    with FileLock(home.root / "promote.lock"):
        chosen = find_version(home, version or CANDIDATE, name=name)
        aliases = {a: v for v in list_versions(home, name=name) for a in v.aliases}
        current = aliases.get(CHAMPION)
        if current is not None and current.version == chosen.version:
            before = aliases.get(PREVIOUS_CHAMPION)
            return Decision("promoted", ("it is the champion already",), chosen, before)
        refusals = _refusals(chosen, current, gate or Gate())
        if refusals and not force:
            raise GateRefused(
                f"Version {chosen.version} of '{name}' was not promoted: {'; '.join(refusals)}. "
                "If you must: --force --reason TEXT.",
                tuple(refusals),
            )
        record = {
            "busi.promoted_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "busi.promoted_by": _user(),
            "busi.promotion": "forced" if refusals else "promoted",
        }
        if reason:
            record["busi.promotion_reason"] = reason
        add_tags(home, chosen, record)
        _log_record(client, chosen, {**chosen.tags, **record, "reasons": refusals}, current)
        if current is not None:
            client.set_registered_model_alias(name, PREVIOUS_CHAMPION, current.version)
        client.set_registered_model_alias(name, CHAMPION, chosen.version)
    return Decision(
        decision="forced" if refusals else "promoted",
        reasons=(*refusals, *((reason,) if reason else ())),
        champion=find_version(home, chosen.version, name=name),
        previous_champion=current,
    )


def _log_record(
    client: Any,
    chosen: RegisteredVersion,
    record: Mapping[str, Any],
    before: RegisteredVersion | None,
) -> None:
    """Keep who promoted what, when, on which figures and hashes, with the version's run."""
    content = {
        "model": chosen.name,
        "version": chosen.version,
        "previous_champion": before.version if before else None,
        **{key.removeprefix("busi."): value for key, value in record.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"promotion_v{chosen.version}.json"
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        client.log_artifact(chosen.run_id, str(path))


def check_force(force: bool, reason: str | None) -> None:
    """Raise an InputError if somebody forces a promotion without saying why."""
    if force and not (reason and reason.strip()):
        raise InputError("--force needs a reason that is recorded: add --reason TEXT.")


def _refusals(
    chosen: RegisteredVersion, champion: RegisteredVersion | None, gate: Gate
) -> list[str]:
    """Reasons why a version may not become champion by itself."""
    if chosen.simulated:
        return ["it was trained on simulated phantoms, whose scores mean nothing for patients"]
    tags = chosen.tags
    if "busi.test_auc" not in tags:
        study = tags.get("busi.study", "NAME")
        return [f"it was not evaluated on the sealed test (busi-search evaluate {study})"]
    refusals = []
    sensitivity, ece = float(tags["busi.test_sensitivity"]), float(tags["busi.test_ece"])
    if gate.min_sensitivity is not None and sensitivity < gate.min_sensitivity:
        refusals.append(f"sensitivity {sensitivity:.3f} is below {gate.min_sensitivity:.3f}")
    if gate.max_ece is not None and ece > gate.max_ece:
        refusals.append(f"calibration error {ece:.3f} is above {gate.max_ece:.3f}")
    if champion is not None:
        refusals += _compared_with(champion, tags, gate)
    return refusals


def _compared_with(champion: RegisteredVersion, tags: Mapping[str, str], gate: Gate) -> list[str]:
    """Reasons from the paired comparison with the champion on the same sealed test."""
    compared = json.loads(tags.get("busi.against_champion", "{}"))
    study = tags.get("busi.study", "NAME")
    if compared.get("champion") != champion.version:
        return [
            f"it was not compared with the champion, version {champion.version} "
            f"(busi-search evaluate {study})"
        ]
    if not compared["comparable"]:
        return [f"it cannot be compared with version {champion.version}: {compared['reason']}"]
    difference, (low, high) = compared["auc_difference"], compared["ci95"]
    if difference < -gate.max_auc_drop:
        return [
            f"its AUC is {difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}) against "
            f"version {champion.version}; at most -{gate.max_auc_drop:.3f} is allowed"
        ]
    return []


def rollback(home: Home, *, name: str = MODEL_NAME) -> Decision:
    """Make the previous champion the champion again.

    Raises:
        InputError: there is no previous champion.
    """
    client = _client(home)
    with FileLock(home.root / "promote.lock"):
        aliases = {a: v for v in list_versions(home, name=name) for a in v.aliases}
        before, current = aliases.get(PREVIOUS_CHAMPION), aliases.get(CHAMPION)
        if before is None:
            raise InputError(f"'{name}' has no previous champion to go back to.")
        client.set_registered_model_alias(name, CHAMPION, before.version)
        client.delete_registered_model_alias(name, PREVIOUS_CHAMPION)
        client.set_model_version_tag(
            name, before.version, "busi.rolled_back_at", time.strftime("%Y-%m-%dT%H:%M:%S%z")
        )
    return Decision(
        decision="rolled back",
        reasons=(),
        champion=find_version(home, before.version, name=name),
        previous_champion=current,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
