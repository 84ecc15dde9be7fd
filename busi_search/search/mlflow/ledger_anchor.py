"""What MLflow keeps of a test ledger: a tag of the study's run with its length and last hash."""

from contextlib import suppress

from busi_search.errors import TrackingAway
from busi_search.home import Home, create_tracking_store, quiet_mlflow
from busi_search.search.mlflow.retry import brief_calls, tracking_errors

# Tag of a study's run, and of every version that was evaluated on the sealed test.
LEDGER_TAG = "busi.test_ledger"


class LedgerAnchor:
    """The tag of one study's run; a store that does not answer is left for the next time.

    Attributes:
        text: as :func:`busi_search.data.ledger.anchor_of` makes it; None if there is no tag, no
            such run, or no answer.
    """

    def __init__(self, home: Home, run_id: str) -> None:
        """Read the tag of the study's run."""
        self._home, self._run_id = home, run_id
        self._answers = False
        self.text: str | None = None
        database = home.tracking_database
        if database is not None and not database.exists():
            return
        with suppress(TrackingAway), brief_calls(), tracking_errors(home):
            create_tracking_store(home)
            quiet_mlflow()
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=home.tracking_uri)
            self.text = self._client.get_run(run_id).data.tags.get(LEDGER_TAG)
            self._answers = True

    def update(self, text: str) -> None:
        """Set the tag, if the store answers and holds another one."""
        if not self._answers or text == self.text:
            return
        with suppress(TrackingAway), brief_calls(), tracking_errors(self._home):
            with self._home.writing():
                self._client.set_tag(self._run_id, LEDGER_TAG, text)
            self.text = text
