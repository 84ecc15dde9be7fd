"""All that is written to MLflow in a search: a copy of the Optuna storage, to be browsed."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.errors import BusiSearchError
from busi_search.home import create_tracking_store, quiet_mlflow, without_password
from busi_search.search.context import StudyContext
from busi_search.search.cross_validation import FoldResult, gather_out_of_fold
from busi_search.search.records import (
    ERROR,
    PRUNE_REASON,
    WORKER,
    cv_metrics,
    main_value,
    stored_folds,
    trial_hyperparameters,
)
from busi_search.spec import COSTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow.entities import Metric, Run

STATES = {TrialState.COMPLETE: "COMPLETE", TrialState.PRUNED: "PRUNED", TrialState.FAIL: "FAIL"}
LEADERBOARD_KEY = "leaderboard"
_METRICS_PER_CALL = 1000


def leaderboard_view(objective: str, ascending: bool) -> dict[str, Any]:
    """Return the state of MLflow's runs table that shows trials best first.

    Undocumented in MLflow: what its own "share view" writes into an experiment tag.
    """
    shown = ["learning_rate", "architecture", "dropout", "augmentation_strength", "freeze_depth"]
    return {
        "searchFilter": "tags.`busi.kind` = 'trial'",
        "orderByKey": f"metrics.`{objective}`",
        "orderByAsc": ascending,
        "selectedColumns": [
            f"metrics.`{objective}`",
            "metrics.`cv_auc_std`",
            "metrics.`cv_accuracy`",
            "tags.`optuna.state`",
            *(f"params.`{name}`" for name in shown),
        ],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "useGroupedValuesInCharts": True,
    }


class Tracker:
    """Writes one study to MLflow: one experiment, one study run, one child run per trial.

    Every call may be repeated: what is there already is not written again, and a trial's run that
    was left half-written is replaced.
    """

    def __init__(self, context: StudyContext) -> None:
        self._context = context
        self._logged: set[int] = set()
        self._best: float | None = None
        self.experiment_id = ""
        self.run_id = ""
        self.seconds = 0.0

    def start(self, study: optuna.Study) -> None:
        """Find or create the experiment and the study run, and see which trials are there.

        Raises:
            BusiSearchError: the tracking store cannot be reached.
        """
        with self._timed():
            create_tracking_store(self._context.home)
            quiet_mlflow()
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self._context.home.tracking_uri)
            self._open_experiment()
            self._open_study_run(study)
            self._find_logged_trials()

    def _open_experiment(self) -> None:
        name = self._context.name
        existing = self._client.get_experiment_by_name(name)
        if existing is None:
            self.experiment_id = self._client.create_experiment(
                name, artifact_location=self._context.home.artifact_location
            )
        elif existing.lifecycle_stage != "active":
            raise BusiSearchError(
                f"The MLflow experiment '{name}' was deleted; restore it, or use --name NEW."
            )
        else:
            self.experiment_id = existing.experiment_id
        section = self._context.spec.study
        view = leaderboard_view(section.objective, section.direction == "minimize")
        tags = {
            f"mlflow.sharedViewState.{LEADERBOARD_KEY}": json.dumps(view),
            "mlflow.experimentKind": "custom_model_development",
            "busi.dataset": self._context.development.name,
            "busi.simulated": str(self._context.development.simulated).lower(),
        }
        for key, value in tags.items():
            self._client.set_experiment_tag(self.experiment_id, key, value)

    def _open_study_run(self, study: optuna.Study) -> None:
        found = self._client.search_runs(
            [self.experiment_id], "tags.`busi.kind` = 'study'", max_results=1
        )
        if found:
            self.run_id = found[0].info.run_id
            best = found[0].data.metrics.get(f"best_{self._context.spec.study.objective}")
            self._best = best
            return
        context = self._context
        tags = {
            "mlflow.runName": context.name,
            "busi.kind": "study",
            "busi.study": context.name,
            "busi.fingerprint": context.partition.fingerprint,
            "busi.partition": context.partition.digest(),
            **git_commit(),
        }
        run = self._client.create_run(self.experiment_id, tags=tags)
        self.run_id = run.info.run_id
        self._log_dataset()
        self.log_texts(
            {
                "study.toml": context.spec_text,
                "environment.json": json.dumps(study.user_attrs["versions"], indent=2),
                "partition.json": json.dumps(self._partition(), indent=1),
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
        self._log_batch(self.run_id, params=params)

    def _partition(self) -> dict[str, Any]:
        """Who belongs where, by name; the sealed test's members are named, never shown."""
        partition = self._context.partition
        paths = self._context.development.paths
        return {
            "fingerprint": partition.fingerprint,
            "counts": self._context.counts,
            "folds": [[paths[index] for index in fold.validation] for fold in partition.folds],
            "test_indices": partition.test.tolist(),
            "quarantined_indices": partition.quarantined.tolist(),
        }

    def _log_dataset(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        development = self._context.development
        section = self._context.spec.dataset
        classes = {
            name: int(np.sum(development.labels == label))
            for label, name in enumerate(development.class_names)
        }
        dataset = Dataset(
            name=development.name,
            digest=self._context.partition.fingerprint,
            source_type=section.source,
            source=json.dumps({"source": section.source, "path": section.path}),
            profile=json.dumps({**self._context.counts, "development_classes": classes}),
        )
        tag = InputTag("mlflow.data.context", "cross-validation")
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [tag])])

    def _find_logged_trials(self) -> None:
        for run in self._trial_runs():
            if run.data.tags.get("busi.logged") == "yes":
                self._logged.add(int(run.data.tags["optuna.number"]))
            else:
                self._client.delete_run(run.info.run_id)

    def _trial_runs(self) -> "list[Run]":
        runs: list[Run] = []
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self.experiment_id],
                "tags.`busi.kind` = 'trial'",
                max_results=1000,
                page_token=token,
            )
            runs += page
            token = page.token
            if not token:
                return runs

    def log_trials(self, trials: Iterable[FrozenTrial]) -> None:
        """Write the finished trials that are not there yet."""
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._logged:
                with self._timed():
                    self._log_trial(trial)
                self._logged.add(trial.number)

    def _log_trial(self, trial: FrozenTrial) -> None:
        folds = stored_folds(trial, len(self._context.partition.folds))
        results = [folds[index] for index in sorted(folds)]
        tags = {
            "mlflow.runName": f"trial-{trial.number:04d}",
            "mlflow.parentRunId": self.run_id,
            "busi.kind": "trial",
            "busi.study": self._context.name,
            "optuna.state": STATES[trial.state],
            "optuna.number": str(trial.number),
            "busi.worker": str(trial.user_attrs.get(WORKER, "")),
        }
        if "recipe" in trial.user_attrs:
            tags["busi.recipe"] = str(trial.user_attrs["recipe"])
        if PRUNE_REASON in trial.user_attrs:
            tags["busi.prune_reason"] = str(trial.user_attrs[PRUNE_REASON])
        run = self._client.create_run(
            self.experiment_id, start_time=_milliseconds(trial.datetime_start), tags=tags
        )
        run_id = run.info.run_id
        params = {}
        if "hyperparameters" in trial.user_attrs:
            params = trial_hyperparameters(trial).model_dump()
        self._log_batch(run_id, params=params, metrics=_trial_metrics(trial, results))
        self._log_trial_files(run_id, trial, results)
        status = "FAILED" if trial.state == TrialState.FAIL else "FINISHED"
        self._client.set_terminated(
            run_id, status=status, end_time=_milliseconds(trial.datetime_complete)
        )
        self._client.set_tag(run_id, "busi.logged", "yes")
        self._log_best(trial)

    def _log_trial_files(self, run_id: str, trial: FrozenTrial, results: list[FoldResult]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if trial.state == TrialState.COMPLETE:
                out_of_fold = gather_out_of_fold(results, self._context.partition.folds)
                np.savez_compressed(
                    Path(folder) / "out_of_fold.npz",
                    log_probabilities=out_of_fold.log_probabilities,
                    fold_of=out_of_fold.fold_of,
                    labels=self._context.development.labels,
                    paths=np.asarray(self._context.development.paths),
                )
            elif trial.state == TrialState.FAIL:
                error = str(trial.user_attrs.get(ERROR, "no traceback"))
                (Path(folder) / "traceback.txt").write_text(error, encoding="utf-8")
            else:
                return
            self._client.log_artifacts(run_id, folder)

    def _log_best(self, trial: FrozenTrial) -> None:
        value = main_value(trial)
        if trial.state != TrialState.COMPLETE or value is None:
            return
        section = self._context.spec.study
        sign = 1 if section.direction == "maximize" else -1
        if self._best is None or sign * value > sign * self._best:
            self._best = value
            self._client.log_metric(
                self.run_id, f"best_{section.objective}", value, step=trial.number
            )

    def _log_batch(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: "list[Metric] | None" = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Param, RunTag

        metrics = metrics or []
        self._client.log_batch(
            run_id,
            metrics=metrics[:_METRICS_PER_CALL],
            params=[Param(key, str(value)) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in (tags or {}).items()],
        )
        for start in range(_METRICS_PER_CALL, len(metrics), _METRICS_PER_CALL):
            self._client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])

    def log_texts(self, texts: Mapping[str, str | bytes]) -> None:
        """Store small files, by name, as artifacts of the study run."""
        with tempfile.TemporaryDirectory() as folder:
            for name, text in texts.items():
                content = text.encode() if isinstance(text, str) else text
                (Path(folder) / name).write_bytes(content)
            self._client.log_artifacts(self.run_id, folder)

    def log_result(self, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Store the study's final figures and tags on its run."""
        with self._timed():
            now = int(time.time() * 1000)
            from mlflow.entities import Metric

            figures = [Metric(key, value, now, 0) for key, value in metrics.items()]
            self._log_batch(self.run_id, metrics=figures, tags=tags)

    def tag_trials(self, numbers: set[int], tag: str) -> None:
        """Set a tag to ``true`` on these trials' runs and to ``false`` on the others."""
        with self._timed():
            for run in self._trial_runs():
                inside = int(run.data.tags["optuna.number"]) in numbers
                wanted = "true" if inside else "false"
                if run.data.tags.get(tag) != wanted:
                    self._client.set_tag(run.info.run_id, tag, wanted)

    def mark(self, state: str) -> None:
        """Show on the study run how far the study is.

        Args:
            state: ``searching`` and ``releasing`` show a running run; ``searched``,
                ``interrupted`` and ``complete`` an ended one, none of them as an error.
        """
        self._client.set_tag(self.run_id, "busi.state", state)
        if state in ("searching", "releasing"):
            self._client.update_run(self.run_id, status="RUNNING")
        else:
            self._client.set_terminated(self.run_id, status="FINISHED")

    @contextmanager
    def _timed(self) -> "Iterator[None]":
        from mlflow.exceptions import MlflowException

        started = time.perf_counter()
        try:
            yield
        except MlflowException as error:
            raise BusiSearchError(
                f"The tracking store {without_password(self._context.home.tracking_uri)} "
                f"refused a call: {str(error).splitlines()[0]}"
            ) from error
        finally:
            self.seconds += time.perf_counter() - started


def _trial_metrics(trial: FrozenTrial, results: list[FoldResult]) -> "list[Metric]":
    """Curves of every fold; means over folds only where all folds were evaluated."""
    from mlflow.entities import Metric

    now = _milliseconds(trial.datetime_complete) or 0
    rows = []
    for result in results:
        pairs = zip(result.val_epochs, result.val_auc, strict=True)
        rows += [Metric(f"val_auc/fold{result.fold}", v, now, epoch) for epoch, v in pairs]
        losses = enumerate(result.train_loss, start=1)
        rows += [Metric(f"train_loss/fold{result.fold}", v, now, epoch) for epoch, v in losses]
    if trial.state == TrialState.COMPLETE:
        rows += [Metric(key, value, now, 0) for key, value in cv_metrics(results).items()]
    rows += [
        Metric(key, float(trial.user_attrs[key]), now, 0)
        for key in COSTS
        if key in trial.user_attrs
    ]
    rows.append(Metric("seconds", sum(result.seconds for result in results), now, 0))
    rows.append(Metric("num_folds", len(results), now, 0))
    return [row for row in rows if np.isfinite(row.value)]


def _milliseconds(moment: Any) -> int | None:
    return None if moment is None else int(moment.timestamp() * 1000)


def git_commit() -> dict[str, str]:
    """Return MLflow's tag of the git commit of the working folder, if it is a repository."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=5, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"mlflow.source.git.commit": commit}
