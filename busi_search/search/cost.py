"""What a search takes, kept with its study over all calls."""

import math
import time
from contextlib import nullcontext

from busi_search.interrupts import interrupts_wait
from busi_search.search.context import StudyContext
from busi_search.search.mlflow.tracking import Tracker
from busi_search.search.progress import SearchProgress
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import Cost, StudyRecord

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
