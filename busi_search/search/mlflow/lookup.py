"""A study's records in MLflow, found by the study's id: names come again, and others use them."""

from collections.abc import Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from busi_search.search.store.study_record import StudyRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

# Tag of every experiment, run and version that belongs to a study: the id that Optuna keeps of it.
STUDY_ID = "busi.study_id"
# Tag of a trial's run: what became of it, to be read in the table of runs.
OUTCOME = "busi.outcome"
# Tags with this prefix are not shown on MLflow's pages: what only programs read. Runs of earlier
# versions have the same names without it.
HIDDEN = "mlflow."
# Of a complete run.
LOGGED = f"{HIDDEN}busi.logged"
PARENT = "mlflow.parentRunId"
# The same id on the run of a trial.
TRIAL_STUDY_ID = f"{HIDDEN}{STUDY_ID}"
ACTIVE, ALL = 1, 3


@contextmanager
def _may_be_missing() -> "Iterator[None]":
    """Go on where MLflow says that there is no such thing."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"):
            raise


def find_run(client: "MlflowClient", run_id: str) -> "Run | None":
    """Return a run, deleted or not; None if there is none of this id."""
    run: Run | None = None
    if run_id:
        with _may_be_missing():
            run = client.get_run(run_id)
    return run


def is_deleted(found: "Run | Experiment") -> bool:
    """Return whether a run or an experiment was deleted in MLflow; until then it can come back."""
    stage = found.info.lifecycle_stage if hasattr(found, "info") else found.lifecycle_stage
    return str(stage) == "deleted"


def hidden(tags: Mapping[str, str], name: str) -> str | None:
    """Return the value of a hidden tag, also where an earlier version wrote it to be seen."""
    return tags.get(name, tags.get(name.removeprefix(HIDDEN)))


def is_logged(tags: Mapping[str, str]) -> bool:
    """Return whether a run is complete."""
    return hidden(tags, LOGGED) == "yes"


def study_id_of(tags: Mapping[str, str]) -> str | None:
    """Return the id of the study that a record belongs to, or None in one of an earlier version."""
    return hidden(tags, TRIAL_STUDY_ID)


def carries(tags: Mapping[str, str], study_id: str | None) -> bool:
    """Return whether a record carries no other study's id; one of an earlier version has none."""
    return study_id is None or study_id_of(tags) in (None, study_id)


def find_experiment(client: "MlflowClient", record: StudyRecord, name: str) -> "Experiment | None":
    """Return the experiment of a study, whatever it is called now and also if it was deleted.

    Args:
        client: of the tracking store.
        record: what the study keeps about itself.
        name: of the study.

    Returns:
        None if there is none; an experiment of that name may then be another study's.
    """
    study_id, tracked = record.id, record.tracked
    if tracked is not None:
        run = find_run(client, tracked.run_id)
        if run is not None and carries(run.data.tags, study_id):
            return client.get_experiment(run.info.experiment_id)
    if study_id is not None:
        condition = f"tags.`{STUDY_ID}` = '{study_id}'"
        found = client.search_experiments(view_type=ALL, filter_string=condition)
        if found:
            return min(found, key=is_deleted)
    elif (named := client.get_experiment_by_name(name)) is not None:
        # A study of an earlier version, whose experiment has no id either.
        return named if STUDY_ID not in named.tags and "busi.dataset" in named.tags else None
    if tracked is not None and (experiment := _of_id(client, tracked.experiment_id)) is not None:
        # Its run is gone for good; where the store is another one, the number is another's.
        same = experiment.name == name and "busi.dataset" in experiment.tags
        return experiment if same and STUDY_ID not in experiment.tags else None
    return None


def _of_id(client: "MlflowClient", experiment_id: str) -> "Experiment | None":
    experiment: Experiment | None = None
    with _may_be_missing():
        experiment = client.get_experiment(experiment_id)
    return experiment


def search_all(
    client: "MlflowClient", experiment_id: str, condition: str, *, view: int = ACTIVE
) -> "list[Run]":
    """Return all runs of an experiment that meet an MLflow filter.

    Args:
        client: of the tracking store.
        experiment_id: of the experiment.
        condition: the filter; empty for every run.
        view: ``ACTIVE``, or ``ALL`` with those that were deleted.
    """
    found: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs(
            [experiment_id], condition, run_view_type=view, max_results=1000, page_token=token
        )
        found += page
        token = page.token
        if not token:
            return found


def runs_of_study(
    client: "MlflowClient",
    experiment_id: str,
    record: StudyRecord,
    kind: str,
    *,
    view: int = ACTIVE,
) -> "list[Run]":
    """Return the runs of a study in an experiment, which may hold runs of others.

    Args:
        client: of the tracking store.
        experiment_id: of the experiment.
        record: what the study keeps about itself.
        kind: ``study`` or ``trial``.
        view: as :func:`search_all`.
    """
    tracked, study_id = record.tracked, record.id
    run_id = None if tracked is None else tracked.run_id

    def is_mine(run: "Run") -> bool:
        tags = run.data.tags
        if study_id is None or study_id_of(tags) is not None:
            return carries(tags, study_id)
        # Written by an earlier version; of a study that was known to none, by its own.
        return run_id in (None, run.info.run_id, tags.get("mlflow.parentRunId"))

    condition = f"tags.`busi.kind` = '{kind}'"
    return [run for run in search_all(client, experiment_id, condition, view=view) if is_mine(run)]
