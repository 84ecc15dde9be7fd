"""A study deleted from Optuna, MLflow, its artifacts and the caches; its ledger is kept."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna

from busi_search.data.ledger import ledger_path
from busi_search.errors import InputError
from busi_search.home import Home, create_tracking_store, quiet_mlflow
from busi_search.models.registry import (
    CHAMPION,
    PREVIOUS_CHAMPION,
    RegisteredVersion,
    list_versions,
    open_registry,
)
from busi_search.search.mlflow.lookup import (
    ALL,
    carries,
    find_experiment,
    is_deleted,
    runs_of_study,
    search_all,
)
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.locks import only_driver
from busi_search.search.store.open import find_study, open_storage
from busi_search.search.store.study_record import StudyRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# Folders of the cache whose files belong to one set of images; weights serve every study.
OF_IMAGES = ("images", "groups", "files", "features")


@dataclass(frozen=True)
class Deletion:
    """What deleting a study removes, or removed.

    Attributes:
        study: its name.
        trials: number of its trials.
        runs: number of its runs in MLflow.
        models: versions of registered models that are deleted.
        kept_models: versions that are kept.
        num_bytes: size of the files that are removed: artifacts and what only this study cached.
        ledger: file of its sealed test's ledger, which is kept.
    """

    study: str
    trials: int
    runs: int
    models: tuple[str, ...]
    kept_models: tuple[str, ...]
    num_bytes: int
    ledger: str

    def to_json(self) -> dict[str, Any]:
        """Return it as ``busi-search delete --json`` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class _Plan:
    """All that belongs to a study, found before anything is removed."""

    study: optuna.Study
    experiment: "Experiment | None"
    runs: "Sequence[Run]"
    others_runs: int
    versions: Sequence[RegisteredVersion]
    folders: Sequence[Path]
    files: Sequence[Path]


def plan_deletion(home: Home, name: str, *, keep_model: bool = False) -> Deletion:
    """Say what :func:`delete_study` would remove; nothing is changed.

    Raises:
        InputError: no such study, or one of its models is the champion and is not to be kept.
    """
    with storage_errors(home), tracking_errors(home):
        plan = _plan(home, name, keep_model=keep_model)
        return _deletion(home, plan, keep_model=keep_model)


def delete_study(home: Home, name: str, *, keep_model: bool = False) -> Deletion:
    """Delete a study; the ledger of its sealed test, and who was developed on, are kept.

    What is interrupted is finished by the same call: the study itself goes last.

    Args:
        home: where it is.
        name: of the study.
        keep_model: keep its registered versions, with the study's run that they belong to.

    Raises:
        InputError: as :func:`plan_deletion`, or the study is being searched.
        BusiSearchError: a store does not answer.
    """
    # Whoever drives the study holds this lock; its ledger is whole in its file before it goes.
    with only_driver(home, name), storage_errors(home), tracking_errors(home):
        plan = _plan(home, name, keep_model=keep_model)
        done = _deletion(home, plan, keep_model=keep_model)
        SealLedger(home, name).entries()
        _delete_records(home, plan, keep_model=keep_model)
        for folder in plan.folders:
            shutil.rmtree(folder, ignore_errors=True)
        for path in plan.files:
            path.unlink(missing_ok=True)
        optuna.delete_study(study_name=name, storage=open_storage(home))
    return done


def _plan(home: Home, name: str, *, keep_model: bool) -> _Plan:
    study = find_study(home, name)
    record = StudyRecord(study)
    create_tracking_store(home)
    quiet_mlflow()
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=home.tracking_uri)
    versions = [
        version
        for version in list_versions(home)
        if version.tags.get("busi.study") == name and carries(version.tags, record.id)
    ]
    champions = [v for v in versions if {CHAMPION, PREVIOUS_CHAMPION} & set(v.aliases)]
    if champions and not keep_model:
        first = champions[0]
        raise InputError(
            f"Version {first.version} of '{first.name}' is of study '{name}' and is "
            f"{' and '.join(first.aliases)}; keep it with --keep-model, or promote another first."
        )
    experiment = find_experiment(client, record, name)
    runs: list[Run] = []
    others = 0
    if experiment is not None:
        number = experiment.experiment_id
        everything = search_all(client, number, "", view=ALL)
        for kind in ("trial",) if keep_model and versions else ("study", "trial"):
            runs += runs_of_study(client, number, record, kind, view=ALL)
        others = len(everything) - len(runs)
    folders = _artifact_folders(home, client, runs, [] if keep_model else versions)
    folders += [folder for folder in [home.audit_folder(name)] if folder.is_dir()]
    return _Plan(study, experiment, runs, others, versions, folders, _cache_files(home, study))


def _artifact_folders(
    home: Home,
    client: "MlflowClient",
    runs: "Sequence[Run]",
    versions: Sequence[RegisteredVersion],
) -> list[Path]:
    """Return the folders of runs and models in this home; a server's are the server's."""
    if not home.has_own_tracking:
        return []
    artifacts = home.root / "artifacts"
    folders = [artifacts / run.info.run_id for run in runs]
    for version in versions:
        source = str(client.get_model_version(version.name, version.version).source)
        # A model that was logged, and not a run's artifact or a path.
        if source.startswith("models:/m-"):
            folders.append(artifacts / "models" / source.removeprefix("models:/"))
    return [folder for folder in folders if folder.is_dir() and not folder.is_symlink()]


def _cache_files(home: Home, study: optuna.Study) -> list[Path]:
    """Return the cached files of images that no other study of the home uses."""
    storage = open_storage(home)
    names = [name for name in optuna.get_all_study_names(storage) if name != study.study_name]
    others: set[str] = set()
    for name in names:
        others |= StudyRecord(optuna.load_study(study_name=name, storage=storage)).cached_as
    # Where nobody else is left, sealed images and those of earlier versions go, too.
    mine = StudyRecord(study).cached_as - others if names else {""}
    return [
        path
        for folder in home.cache_folders
        if folder.is_dir() and folder.name in OF_IMAGES
        for path in folder.iterdir()
        if path.is_file() and any(path.name.startswith(found) for found in mine)
    ]


def _deletion(home: Home, plan: _Plan, *, keep_model: bool) -> Deletion:
    inside = [path for folder in plan.folders for path in folder.rglob("*") if path.is_file()]
    versions = tuple(version.version for version in plan.versions)
    return Deletion(
        study=plan.study.study_name,
        trials=len(plan.study.get_trials(deepcopy=False)),
        runs=len(plan.runs),
        models=() if keep_model else versions,
        kept_models=versions if keep_model else (),
        num_bytes=sum(path.stat().st_size for path in (*inside, *plan.files)),
        ledger=str(ledger_path(home, plan.study.study_name)),
    )


def _delete_records(home: Home, plan: _Plan, *, keep_model: bool) -> None:
    """Delete versions and runs; the experiment goes, or gives its name free."""
    client = open_registry(home)
    for version in () if keep_model else plan.versions:
        client.delete_model_version(version.name, version.version)
    for run in plan.runs:
        if not is_deleted(run):
            client.delete_run(run.info.run_id)
    experiment = plan.experiment
    if experiment is None:
        return
    if is_deleted(experiment):
        client.restore_experiment(experiment.experiment_id)
        for run in plan.runs:
            client.delete_run(run.info.run_id)
    if experiment.name == plan.study.study_name:
        # MLflow keeps the name of a deleted experiment; the next study may have it.
        study_id = (StudyRecord(plan.study).id or experiment.experiment_id)[:8]
        client.rename_experiment(
            experiment.experiment_id, f"{experiment.name} (deleted study {study_id})"
        )
    if plan.others_runs == 0:
        client.delete_experiment(experiment.experiment_id)
