"""One thing that the doctor looked at, and how it asks MLflow."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from busi_search.home import (
    Home,
    quiet_mlflow,
)
from busi_search.search.mlflow.retry import brief_calls, tracking_errors

State = Literal["ok", "note", "problem", "mended"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: what, such as ``device`` or ``study busi``.
        state: ``ok``; ``note`` (worth knowing, nothing is wrong); ``problem``; ``mended``.
        text: what was found.
        mend: the command or step that fixes it, or None.
    """

    about: str
    state: State
    text: str
    mend: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the finding as ``busi-search doctor --json`` prints it."""
        return asdict(self)


def answering_client(home: Home) -> Any:
    """Return a client after one short call, so that a server that is away is found at once."""
    quiet_mlflow()
    from mlflow import MlflowClient

    with brief_calls(), tracking_errors(home):
        client = MlflowClient(tracking_uri=home.tracking_uri)
        client.search_experiments(max_results=1)
    return client
