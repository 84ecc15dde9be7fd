"""What a search takes, kept with its study over all calls."""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext

from optuna.trial import FrozenTrial

from busi_search.interrupts import interrupts_wait
from busi_search.search.context import StudyContext
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.progress import SearchProgress
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.fold_records import folds_begun, stored_folds, unfinished_fold
from busi_search.search.store.open import find_study
from busi_search.search.store.study_parts import Cost
from busi_search.search.store.study_record import StudyRecord

# A call may be ended at any moment, and then loses so much at most.
WRITE_SECONDS = 5.0


class CostMeter:
    """What a call takes, beside what the calls before took; one that had to search counts."""

    def __init__(self, context: StudyContext, tracker: Tracker, started: float) -> None:
        """Take the study, its tracker, and when the call began by the monotonic clock."""
        self._context, self._tracker, self._started = context, tracker, started
        self._searched: float | None = None
        self._written = -math.inf
        self._record: StudyRecord | None = None
        self._before = Cost()

    def note(self, progress: SearchProgress) -> None:
        """Write what was spent until now, if that was not done just before."""
        if time.monotonic() - self._written >= WRITE_SECONDS:
            self.write(progress)

    def search_ended(self, progress: SearchProgress) -> None:
        """Write what was spent; what follows is not search any more."""
        self._searched = time.monotonic() - self._started
        self.write(progress)

    def write(self, progress: SearchProgress) -> None:
        """Write what was spent until now.

        Raises:
            BusiSearchError: the storage cannot be written to.
        """
        if progress.target <= progress.before:
            return
        seconds = time.monotonic() - self._started
        searched = seconds if self._searched is None else self._searched
        home = self._context.home
        # An interrupt within a commit would leave the file locked.
        waits = interrupts_wait() if home.has_local_storage else nullcontext()
        with storage_errors(home), waits:
            if self._record is None:
                self._record = StudyRecord(find_study(home, self._context.name))
                self._before = self._record.cost
            before = self._before
            self._record.set_cost(
                Cost(
                    seconds=round(before.seconds + seconds, 3),
                    search_seconds=round(before.search_seconds + searched, 3),
                    tracking_seconds=round(before.tracking_seconds + self._tracker.seconds, 3),
                )
            )
        self._written = time.monotonic()


def total_cost(context: StudyContext, trials: Sequence[FrozenTrial]) -> dict[str, float]:
    """Return the seconds of all calls that searched, and the work that the trials took.

    Args:
        context: the study.
        trials: all its trials.
    """
    spent = StudyRecord(find_study(context.home, context.name)).cost
    folds = context.partition.folds
    results = [fold for trial in trials for fold in stored_folds(trial, len(folds)).values()]
    broken_off = [fold for trial in trials if (fold := unfinished_fold(trial)) is not None]
    return {
        "seconds": spent.seconds,
        "fold_trainings": sum(folds_begun(trial, len(folds)) for trial in trials),
        "epochs": sum(fold.epochs for fold in broken_off)
        + sum(len(fold.train_loss) for fold in results),
        "image_passes": sum(fold.epochs * len(folds[fold.fold].train) for fold in broken_off)
        + sum(fold.image_passes for fold in results),
        "tracking_seconds": spent.tracking_seconds,
        "search_seconds": spent.search_seconds,
    }
