"""The copy of a search in MLflow, to be browsed: kept up to date, whether MLflow answers or not."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import optuna
from optuna.trial import FrozenTrial, TrialState

from busi_search.errors import BusiSearchError, TrackingAway
from busi_search.search.context import StudyContext, fold_sizes
from busi_search.search.mlflow.retry import CALL_SECONDS, Pause, brief_calls, tracking_errors
from busi_search.search.mlflow.study import MlflowStudy
from busi_search.search.mlflow.system_metrics import SystemMetrics
from busi_search.search.sampler_view import expected_values
from busi_search.search.store.foreign import is_foreign
from busi_search.search.store.study_parts import Tracked
from busi_search.search.store.study_record import StudyRecord

# The driver sends a backlog in portions, so that it still watches its workers.
PORTION_SECONDS = 5.0
# Trials under way are shown so often, and not at all those that are over before.
LIVE_SECONDS = 10.0


class Tracker:
    """Writes one study to MLflow: one experiment, one study run, one child run per trial.

    Every call may be repeated: what is there already is not written again, and a run that was left
    half-written is written anew. A store that does not answer never ends a search: trials stay
    unsent, and are sent when it answers again, by this process or by a later one.

    Attributes:
        experiment_id, run_id: of the study in MLflow.
        seconds: time spent here.
        problem: why the store could not be written to last time; None if it could.
        has_results: whether the study's run, when it was opened, knew of a winner.
    """

    def __init__(self, context: StudyContext, *, call_seconds: int = CALL_SECONDS) -> None:
        """Prepare to write ``context``'s study; no call waits longer than ``call_seconds``."""
        self._context = context
        self._call_seconds = call_seconds
        self._there: MlflowStudy | None = None
        self._logged: set[int] = set()
        self._state: str | None = None
        self._pause = Pause()
        self._system: SystemMetrics | None = None
        self._last_look = 0.0
        self.experiment_id = ""
        self.run_id = ""
        self.seconds = 0.0
        self.problem: str | None = None
        self.has_results = False

    def start(self, study: optuna.Study) -> None:
        """Connect, and see which trials are there.

        Raises:
            TrackingAway: the store cannot be reached, and never was by this study; one that was
                known to answer is waited for while the search goes on.
        """
        self._study = study
        known = StudyRecord(study).tracked
        try:
            with self._timed(), brief_calls(self._call_seconds):
                self._connected()
        except TrackingAway as error:
            if known is None:
                raise
            self.experiment_id, self.run_id = known.experiment_id, known.run_id
            self._is_away(error)

    def _connected(self) -> MlflowStudy:
        if self._there is not None:
            return self._there
        with self._context.home.writing():
            there = MlflowStudy(self._context, self._study)
        self._logged = there.logged
        self.has_results = there.has_results
        self.experiment_id, self.run_id = there.experiment_id, there.run_id
        record, tracked = StudyRecord(self._study), Tracked(self.experiment_id, self.run_id)
        if record.tracked != tracked:
            record.set_tracked(tracked)
        if self._state is not None:
            there.write_state(self._state)
        self._there = there
        return there

    def _is_away(self, error: BusiSearchError) -> None:
        # A new connection looks first what the last calls left behind.
        self._there = None
        self.problem = str(error)
        self._pause.lengthen()

    def _attempt(self, action: Callable[[MlflowStudy], None], *, seconds: int) -> None:
        """Do something with the store, if it answers; else remember why not."""
        try:
            with self._timed(), brief_calls(seconds):
                action(self._connected())
        except BusiSearchError as error:
            self._is_away(error)
        else:
            self.problem = None
            self._pause.reset()

    def _missing(self, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
        return [
            t
            for t in trials
            if t.number not in self._logged and t.state.is_finished() and not self._is_foreign(t)
        ]

    def _is_foreign(self, trial: FrozenTrial) -> bool:
        return is_foreign(trial, fold_sizes(self._context))

    def num_unsent(self, trials: Iterable[FrozenTrial]) -> int:
        """Return how many of these trials are finished and not known to be in the store."""
        return len(self._missing(trials))

    def log_trials(self, trials: Iterable[FrozenTrial], *, last: bool = False) -> None:
        """Write the finished trials that are not there yet, if the store answers.

        Args:
            trials: of the study, in any state.
            last: try now even if the store did not answer just before, and write all of them;
                otherwise for about ``PORTION_SECONDS``.
        """
        trials = list(trials)
        missing = self._missing(trials)
        look = not last and time.monotonic() - self._last_look >= LIVE_SECONDS
        if self.problem is None and not missing and not look:
            return
        if last or self._pause.over():

            def write(there: MlflowStudy) -> None:
                self._log_missing(there, missing, self._expected(missing, trials), last)
                if look:
                    self._look(there, trials)

            self._attempt(write, seconds=self._call_seconds)

    def _log_missing(
        self,
        there: MlflowStudy,
        missing: list[FrozenTrial],
        expected: Mapping[int, float | None],
        last: bool,
    ) -> None:
        started = time.monotonic()
        # A new connection may have found that some are there.
        for trial in self._missing(missing):
            with self._context.home.writing():
                there.log_trial(trial, expected.get(trial.number))
            if not last and time.monotonic() - started > PORTION_SECONDS:
                return

    def _expected(
        self, missing: list[FrozenTrial], trials: list[FrozenTrial]
    ) -> dict[int, float | None]:
        """Return the scores to be expected of trials that were stopped early, by their numbers."""
        section = self._context.spec.study
        if section.further_objectives or all(t.state != TrialState.PRUNED for t in missing):
            return {}
        ended = [trial for trial in trials if trial.state.is_finished()]
        values = expected_values(
            ended, metric=section.metric, running_means=section.reports_running_means
        )
        return {trial.number: value for trial, value in zip(ended, values, strict=True)}

    def _look(self, there: MlflowStudy, trials: list[FrozenTrial]) -> None:
        """Show the trials under way that take longer than a moment, and how busy the machine is."""
        self._last_look, now = time.monotonic(), datetime.now()
        for trial in trials:
            begun = trial.datetime_start
            if begun is None or not there.trials.has_news(trial):
                continue
            if (now - begun).total_seconds() >= LIVE_SECONDS:
                with self._context.home.writing():
                    there.trials.show_running(trial)
        self._system = self._system or SystemMetrics()
        if self._state == "searching" and self._system.is_due():
            with self._context.home.writing():
                there.log_system(self._system)

    def log_texts(self, texts: Mapping[str, str | bytes]) -> None:
        """Store small files, by name, as artifacts of the study run.

        Raises:
            TrackingAway: the store does not take them.
        """
        with self._timed(), self._context.home.writing():
            self._connected().log_texts(texts)

    def log_result(
        self,
        metrics: Mapping[str, float],
        tags: Mapping[str, str],
        model_id: str | None = None,
    ) -> None:
        """Store the study's final figures and tags; see :meth:`.MlflowStudy.log_figures`.

        Raises:
            TrackingAway: the store does not take them.
        """
        with self._timed(), self._context.home.writing():
            self._connected().log_figures(metrics, tags, model_id)

    def tag_trials(self, numbers: set[int], tag: str) -> None:
        """Set a tag to ``true`` on these trials' runs and to ``false`` on the others.

        Raises:
            TrackingAway: the store does not take them.
        """
        with self._timed():
            self._connected().tag_trials(numbers, tag)

    def mark(self, state: str, *, hurry: bool = False) -> None:
        """Show on the study run how far the study is, now or when the store answers again.

        Args:
            state: ``searching`` and ``releasing`` show a running run; ``searched``,
                ``interrupted`` and ``complete`` an ended one, none of them as an error.
            hurry: somebody waits for this process to end: at most a second per call, and none
                to a store that did not answer before.
        """
        self._state = state
        if hurry and (self.problem is not None or self._there is None):
            return
        seconds = 1 if hurry else self._call_seconds

        def write(there: MlflowStudy) -> None:
            with self._context.home.writing():
                there.write_state(state)

        self._attempt(write, seconds=seconds)

    @contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.perf_counter()
        try:
            with tracking_errors(self._context.home):
                yield
        finally:
            self.seconds += time.perf_counter() - started
