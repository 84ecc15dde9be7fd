"""What a trial tells, while it runs, of how far it has come: epochs, and what is done once."""

import math
import time

import optuna

from busi_search.search.fold_result import Look
from busi_search.search.store.records import EPOCHS, Work, write_work

# Between two writes of one worker; a fold that takes less is told of when it is finished.
SECONDS_BETWEEN_WRITES = 3.0


class WorkClock:
    """Times one trial: the epochs of a fold, and the work that later trials find done.

    Features of frozen stages are stored and weights are learned by the first trial that needs
    them. Whoever expects the next trials to take as long is wrong a hundredfold.
    """

    def __init__(self, trial: optuna.Trial) -> None:
        """Take the trial that is running."""
        self._trial = trial
        self._shared_seconds = 0.0
        self._phase_seconds = 0.0
        # The part that is being worked on, and since when.
        self._part: tuple[str, int] | None = None
        self._since = self._fold_since = self._written = time.monotonic()

    def shared_part_done(self, what: str, done: int, total: int) -> None:
        """Note that a part of what is done once for many trials begins, or is done."""
        now = time.monotonic()
        before, self._part = self._part, (what, done)
        if before == (what, done - 1):
            self._shared_seconds += now - self._since
            self._phase_seconds += now - self._since
            # It is no time of the fold's epochs.
            self._fold_since += now - self._since
        elif before is None or before[0] != what or done == 0:
            self._phase_seconds = 0.0
        self._since = now
        if before is None:
            # Nothing else says for a while what the trial is waiting for.
            self._written = -math.inf
        self._write(what, done, total, self._phase_seconds)

    def epochs_done(self, look: Look) -> None:
        """Note how many epochs of a fold are done."""
        seconds = time.monotonic() - self._fold_since
        self._write(EPOCHS, look.epoch, look.epochs, seconds, fold=look.fold)

    def fold_done(self) -> None:
        """Note that the next fold begins."""
        self._fold_since = time.monotonic()

    def close(self) -> None:
        """Keep what was spent on what other trials find done, if it is worth a word."""
        if self._shared_seconds > 0:
            self._written = -math.inf
            self._write(EPOCHS, 0, 0, 0.0)

    def _write(
        self, phase: str, done: int, total: int, seconds: float, *, fold: int | None = None
    ) -> None:
        now = time.monotonic()
        if now - self._written < SECONDS_BETWEEN_WRITES:
            return
        self._written = now
        shared = round(self._shared_seconds, 3)
        write_work(self._trial, Work(phase, done, total, round(seconds, 3), shared, fold))
