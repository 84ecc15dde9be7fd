"""One study as MLflow shows it: an experiment, a study run, one run per trial."""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.files import utf8
from busi_search.home import create_tracking_store, quiet_mlflow
from busi_search.search.context import StudyContext
from busi_search.search.mlflow.batch import log_batch
from busi_search.search.mlflow.descriptions import (
    dataset_input,
    describe_experiment,
    git_commit,
    who_belongs_where,
)
from busi_search.search.mlflow.leaderboard import LEADERBOARD_KEY, leaderboard_view
from busi_search.search.mlflow.lookup import (
    ALL,
    HIDDEN,
    LOGGED,
    STUDY_ID,
    carries,
    find_experiment,
    hidden,
    is_deleted,
    is_logged,
    runs_of_study,
)
from busi_search.search.mlflow.system_metrics import SystemMetrics
from busi_search.search.mlflow.trial import origin_tags
from busi_search.search.mlflow.trials import TrialRuns
from busi_search.search.store.foreign import own_trials
from busi_search.search.store.records import main_value
from busi_search.search.store.study_record import StudyRecord

if TYPE_CHECKING:
    from mlflow.entities import Run

# Tags of a study's run: digest of the study file that stands beside it; the winner's trial.
FILE = f"{HIDDEN}busi.file"
RESULTS = "busi.best_trial"
# How many sealed images other studies of the home developed on: "12 of 120".
NOT_INDEPENDENT = "busi.test_not_independent"


class MlflowStudy:
    """A connection to one study's runs; any call may fail, and may be repeated on a new one.

    Attributes:
        experiment_id, run_id: of the study.
        trials: their runs.
        has_results: whether the study's run was told of a winner.
    """

    def __init__(self, context: StudyContext, study: optuna.Study) -> None:
        """Find or create the experiment and the study run, and see which trials are there."""
        create_tracking_store(context.home)
        quiet_mlflow()
        from mlflow import MlflowClient

        self._context, self._record = context, StudyRecord(study)
        self._client = MlflowClient(tracking_uri=context.home.tracking_uri)
        self._best: float | None = None
        self.has_results = False
        self.experiment_id = ""
        self.run_id = ""
        self._open_experiment()
        self._open_study_run(study)
        self.trials = TrialRuns(
            self._client,
            context,
            self._record,
            experiment_id=self.experiment_id,
            run_id=self.run_id,
        )
        self._find_best(study)

    def _open_experiment(self) -> None:
        name, record = self._context.name, self._record
        existing = find_experiment(self._client, record, name)
        was_old = record.id is None
        study_id = record.make_id()
        section = self._context.spec.study
        view = leaderboard_view(
            section.objective, section.direction == "minimize", self._context.spec.space
        )
        tags = {
            f"mlflow.sharedViewState.{LEADERBOARD_KEY}": json.dumps(view),
            "mlflow.experimentKind": "custom_model_development",
            "busi.dataset": self._context.development.name,
            "busi.simulated": str(self._context.development.simulated).lower(),
            "busi.study": name,
            STUDY_ID: study_id,
        }
        if existing is None:
            described = {"mlflow.note.content": describe_experiment(self._context), **tags}
            self.experiment_id = self._create_experiment(study_id, described)
            return
        self.experiment_id = existing.experiment_id
        if is_deleted(existing):
            self._client.restore_experiment(self.experiment_id)
        if was_old or carries(existing.tags, study_id):
            for key, value in tags.items():
                if existing.tags.get(key) != value:
                    self._client.set_experiment_tag(self.experiment_id, key, value)

    def _create_experiment(self, study_id: str, tags: dict[str, str]) -> str:
        """Create the experiment; where its name is another study's, with the id in its name."""
        from mlflow.exceptions import MlflowException

        name, place = self._context.name, self._context.home.artifact_location
        try:
            return str(self._client.create_experiment(name, artifact_location=place, tags=tags))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        apart = f"{name} ({study_id[:8]})"
        return str(self._client.create_experiment(apart, artifact_location=place, tags=tags))

    def _open_study_run(self, study: optuna.Study) -> None:
        context, run = self._context, self._find_study_run()
        independence = {NOT_INDEPENDENT: context.test_not_independent}
        if run is not None:
            self.run_id, self._begun = run.info.run_id, run.info.start_time
            missing = {STUDY_ID: self._record.make_id(), **independence}
            missing = {k: v for k, v in missing.items() if run.data.tags.get(k) != v}
            if missing:
                log_batch(self._client, self.run_id, tags=missing)
            self._best = run.data.metrics.get(f"best_{context.spec.study.objective}")
            self.has_results = RESULTS in run.data.tags
            if is_logged(run.data.tags):
                if hidden(run.data.tags, FILE) not in (None, self._file_digest):
                    self.log_texts({"study.toml": context.spec_text})
                    self._client.set_tag(self.run_id, FILE, self._file_digest)
                return
        else:
            tags = {
                "mlflow.runName": context.name,
                "busi.kind": "study",
                "busi.study": context.name,
                STUDY_ID: self._record.make_id(),
                "busi.fingerprint": context.partition.fingerprint,
                "busi.partition": context.partition.digest(),
                **independence,
                **git_commit(),
                **origin_tags(context),
                "mlflow.note.content": (
                    "The search is under way. `best_cv_auc` or the study's other objective is the "
                    "best score so far, as found; the winner's corrected figures, the report and "
                    "the registered model follow when it ends."
                ),
            }
            run = self._client.create_run(self.experiment_id, tags=tags)
            self.run_id, self._begun = run.info.run_id, run.info.start_time
        self._log_study(study)
        log_batch(self._client, self.run_id, tags={FILE: self._file_digest, LOGGED: "yes"})

    def _find_study_run(self) -> "Run | None":
        """Return the study's run; one that was deleted comes back with all that it held."""
        found = runs_of_study(self._client, self.experiment_id, self._record, "study", view=ALL)
        # The fullest is kept: a lost answer may have made a second one.
        found.sort(key=lambda run: (is_logged(run.data.tags), len(run.data.tags)))
        active = [run for run in found if not is_deleted(run)]
        for run in active[:-1]:
            self._delete(run.info.run_id)
        if active:
            return active[-1]
        if found and is_logged(found[-1].data.tags):
            self._client.restore_run(found[-1].info.run_id)
            return found[-1]
        return None

    @property
    def _file_digest(self) -> str:
        return hashlib.sha256(utf8(self._context.spec_text)).hexdigest()[:16]

    def _log_study(self, study: optuna.Study) -> None:
        context = self._context
        self._client.log_inputs(self.run_id, [dataset_input(context)])
        self.log_texts(
            {
                "study.toml": context.spec_text,
                "environment.json": json.dumps(StudyRecord(study).versions, indent=2),
                "partition.json": json.dumps(who_belongs_where(context), indent=1),
            }
        )
        section = context.spec.study
        params = {
            "objective": section.objective,
            "sampler": section.sampler,
            "pruner": section.pruner,
            "seed": section.seed,
            "num_folds": len(context.partition.folds),
            "image_size_pixels": context.spec.dataset.image_size_pixels,
        }
        log_batch(self._client, self.run_id, params=params)

    def _dataset_named(self) -> dict[str, str]:
        """Return the dataset of the study as MLflow names it beside a figure."""
        return {
            "dataset_name": self._context.development.name,
            "dataset_digest": self._context.partition.fingerprint,
        }

    def _find_best(self, study: optuna.Study) -> None:
        """Best of the trials that are there: what ``best_`` reached so far."""
        complete = [t for t in own_trials(study) if t.state == TrialState.COMPLETE]
        found = [main_value(t) for t in complete if t.number in self.logged]
        values = [value for value in found if value is not None]
        if self._best is not None:
            values.append(self._best)
        maximise = self._context.spec.study.direction == "maximize"
        self._best = (max if maximise else min)(values, default=None)

    def _delete(self, run_id: str) -> None:
        """Delete a run of this study's own that is there twice."""
        self._client.set_terminated(run_id, status="KILLED")
        self._client.delete_run(run_id)

    def log_trial(self, trial: FrozenTrial, expected: float | None = None) -> None:
        """Write a trial that has ended; see :meth:`TrialRuns.log`."""
        # First: once a trial's run is whole, nobody asks for its value again.
        self._log_best(trial)
        self.trials.log(trial, expected)

    @property
    def logged(self) -> set[int]:
        """Numbers of the trials that are there, whole."""
        return self.trials.logged

    def _log_best(self, trial: FrozenTrial) -> None:
        value = main_value(trial)
        if trial.state != TrialState.COMPLETE or value is None:
            return
        section = self._context.spec.study
        sign = 1 if section.direction == "maximize" else -1
        if self._best is None or sign * value > sign * self._best:
            self._best = value
            # MLflow shows the value of the highest step: trials do not end in their order.
            step = max({*self.logged, trial.number})
            self._client.log_metric(self.run_id, f"best_{section.objective}", value, step=step)

    def log_system(self, system: SystemMetrics) -> None:
        """Store how busy this machine is on the study run."""
        log_batch(self._client, self.run_id, metrics=system.read(self._begun))

    def log_texts(self, texts: Mapping[str, str | bytes]) -> None:
        """Store small files, by name, as artifacts of the study run."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                content = utf8(text) if isinstance(text, str) else text
                (Path(folder) / name).write_bytes(content)
            self._client.log_artifacts(self.run_id, folder)

    def log_figures(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        model_id: str | None = None,
    ) -> None:
        """Store figures and tags on the study run, and the figures on a logged model with them.

        Args:
            metrics: by name.
            tags: likewise.
            model_id: of the logged model that the figures are of.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        whose: dict[str, Any] = {}
        if model_id is not None:
            whose = {"model_id": model_id, "run_id": self.run_id, **self._dataset_named()}
        figures = [Metric(key, value, now, 0, **whose) for key, value in metrics.items()]
        log_batch(self._client, self.run_id, metrics=figures, tags=tags)

    def tag_trials(self, numbers: set[int], tag: str) -> None:
        """Set a tag to ``true`` on these trials' runs and to ``false`` on the others."""
        for run in runs_of_study(self._client, self.experiment_id, self._record, "trial"):
            wanted = "true" if int(run.data.tags["optuna.number"]) in numbers else "false"
            if run.data.tags.get(tag) != wanted:
                with self._context.home.writing():
                    self._client.set_tag(run.info.run_id, tag, wanted)

    def write_state(self, state: str) -> None:
        """Set the state tag and the status of the study run, and of runs of trials under way."""
        if state != "searching":
            self.trials.rest()
        status = "RUNNING" if state in ("searching", "releasing") else "FINISHED"
        run = self._client.get_run(self.run_id)
        if run.data.tags.get("busi.state") != state:
            self._client.set_tag(self.run_id, "busi.state", state)
        if run.info.status == status:
            return
        if status == "RUNNING":
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self.run_id, status="FINISHED")
