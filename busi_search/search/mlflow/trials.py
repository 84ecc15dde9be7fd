"""The runs of a study's trials: begun while a trial runs, filled fold by fold, and closed."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import FrozenTrial, TrialState

from busi_search.search.context import StudyContext
from busi_search.search.mlflow.batch import log_batch
from busi_search.search.mlflow.lookup import (
    LOGGED,
    OUTCOME,
    PARENT,
    TRIAL_STUDY_ID,
    is_logged,
    runs_of_study,
    study_id_of,
)
from busi_search.search.mlflow.trial import (
    fold_metrics,
    milliseconds,
    running_outcome,
    running_tags,
    trial_metrics,
    trial_tags,
    write_trial_files,
)
from busi_search.search.store.fold_records import stored_folds, stored_indices
from busi_search.search.store.records import stored_hyperparameters, trial_hyperparameters
from busi_search.search.store.study_record import StudyRecord

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


class TrialRuns:
    """The child runs of one study's run; every call may fail, and may be repeated.

    A run that was begun and not closed, by this process or by one that was killed, is gone on with:
    what it holds is not written again.

    Attributes:
        logged: numbers of the trials that are there, whole.
    """

    def __init__(
        self,
        client: "MlflowClient",
        context: StudyContext,
        record: StudyRecord,
        *,
        experiment_id: str,
        run_id: str,
    ) -> None:
        """See which trials are there; what is there twice is removed."""
        self._client, self._context, self._record = client, context, record
        self._experiment_id, self._run_id = experiment_id, run_id
        self.logged: set[int] = set()
        # Runs that are not closed, by number; the folds they were sent; what was there before.
        self._open: dict[int, str] = {}
        self._sent: dict[int, set[int]] = {}
        self._found: dict[int, Run] = {}
        runs = runs_of_study(client, experiment_id, record, "trial")
        for run in sorted(runs, key=lambda run: not is_logged(run.data.tags)):
            self._take(run)

    def _take(self, run: "Run") -> None:
        tags, run_id = run.data.tags, run.info.run_id
        number = int(tags.get("optuna.number", -1))
        if number < 0 or number in self.logged or number in self._open:
            self._client.set_terminated(run_id, status="KILLED")
            self._client.delete_run(run_id)
            return
        if is_logged(tags):
            self.logged.add(number)
        else:
            self._open[number], self._found[number] = run_id, run
            self._sent[number] = set()
        study_id = self._record.make_id()
        missing = {TRIAL_STUDY_ID: study_id} if study_id_of(tags) != study_id else {}
        if tags.get(PARENT) != self._run_id:
            missing[PARENT] = self._run_id
        if missing:
            log_batch(self._client, run_id, tags=missing)

    def has_news(self, trial: FrozenTrial) -> bool:
        """Return whether a running trial has no run yet, or folds that were not sent."""
        if trial.state != TrialState.RUNNING or not stored_hyperparameters(trial):
            return False
        return bool(set(stored_indices(trial)) - self._sent.get(trial.number, set())) or (
            trial.number not in self._open or trial.number in self._found
        )

    def show_running(self, trial: FrozenTrial) -> None:
        """Begin a running trial's run, or add the folds that were finished since."""
        number = trial.number
        folds = stored_folds(trial, len(self._context.partition.folds))
        run_id = self._open.get(number) or self._create(trial, running_tags(self._context, trial))
        sent = self._sent.setdefault(number, set())
        fresh = [folds[index] for index in sorted(folds) if index not in sent]
        params = trial_hyperparameters(trial).model_dump()
        if number in self._found:
            self._client.update_run(run_id, status="RUNNING")
        metrics = self._not_there(number, fold_metrics(fresh, milliseconds(trial.datetime_start)))
        outcome = running_outcome(len(folds), len(self._context.partition.folds))
        log_batch(self._client, run_id, params=params, metrics=metrics, tags={OUTCOME: outcome})
        self._found.pop(number, None)
        sent.update(folds)

    def log(self, trial: FrozenTrial, expected: float | None = None) -> None:
        """Write all of a trial that has ended; the mark that it is whole comes last.

        Figures come after all else: MLflow reads those it has whenever a run is touched.

        Args:
            trial: in its final state.
            expected: the score to be expected of one that was stopped early, if it is known.
        """
        number = trial.number
        folds = stored_folds(trial, len(self._context.partition.folds))
        results = [folds[index] for index in sorted(folds)]
        tags = trial_tags(self._context, trial, results, expected)
        run_id = self._open.get(number) or self._create(trial, tags)
        with tempfile.TemporaryDirectory() as folder:
            if write_trial_files(Path(folder), self._context, trial, results):
                self._client.log_artifacts(run_id, folder)
        self._client.set_terminated(
            run_id,
            status="FAILED" if trial.state == TrialState.FAIL else "FINISHED",
            end_time=milliseconds(trial.datetime_complete),
        )
        params = {}
        if stored_hyperparameters(trial):
            params = trial_hyperparameters(trial).model_dump()
        sent = self._sent.get(number, set())
        fresh = [result for result in results if result.fold not in sent]
        metrics = fold_metrics(fresh, milliseconds(trial.datetime_complete))
        objective = self._context.spec.study.objective
        metrics += trial_metrics(trial, results, objective, expected)
        metrics = self._not_there(number, metrics)
        log_batch(
            self._client, run_id, params=params, metrics=metrics, tags={**tags, LOGGED: "yes"}
        )
        for kept in (self._open, self._sent, self._found):
            kept.pop(number, None)
        self.logged.add(number)

    def _create(self, trial: FrozenTrial, tags: Mapping[str, str]) -> str:
        tags = {**tags, TRIAL_STUDY_ID: self._record.make_id(), PARENT: self._run_id}
        run = self._client.create_run(
            self._experiment_id, start_time=milliseconds(trial.datetime_start), tags=tags
        )
        self._open[trial.number] = str(run.info.run_id)
        return self._open[trial.number]

    def _not_there(self, number: int, metrics: "list[Metric]") -> "list[Metric]":
        """Leave out the points that a run held before this process went on with it."""
        found = self._found.get(number)
        if found is None:
            return metrics
        run_id = found.info.run_id
        held = {
            (key, point.step)
            for key in {metric.key for metric in metrics} & found.data.metrics.keys()
            for point in self._client.get_metric_history(run_id, key)
        }
        return [metric for metric in metrics if (metric.key, metric.step) not in held]

    def rest(self) -> None:
        """Show that the trials under way wait until the search goes on."""
        for run_id in self._open.values():
            run = self._client.get_run(run_id)
            if run.info.status == "RUNNING":
                log_batch(self._client, run_id, tags={OUTCOME: "interrupted, to be resumed"})
                self._client.update_run(run_id, status="SCHEDULED")
