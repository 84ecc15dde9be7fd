"""Errors a user can cause or must decide about; each knows its exit code."""

from collections.abc import Mapping
from typing import Any


def reason_of(error: BaseException, *, most: int = 200) -> str:
    """Return the first line of what a library said, cut where it quotes half a file."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else type(error).__name__
    return reason if len(reason) <= most else f"{reason[:most]} …"


class BusiSearchError(Exception):
    """An error that is shown as one clear sentence instead of a traceback."""

    exit_code = 1


class InputError(BusiSearchError):
    """The command line, a study file, a dataset or a model name is not usable as given."""

    exit_code = 2


class TrackingAway(BusiSearchError):
    """The tracking store does not answer or refuses a call; the Optuna storage holds the truth."""


class GateRefused(BusiSearchError):
    """The gate refused a promotion; nothing was changed.

    Attributes:
        reasons: why, one sentence each.
        notes: how much the figures behind them can show, one sentence each.
        evidence: these figures.
    """

    exit_code = 3

    def __init__(
        self,
        message: str,
        reasons: tuple[str, ...],
        *,
        notes: tuple[str, ...] = (),
        evidence: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.reasons = reasons
        self.notes = notes
        self.evidence = dict(evidence or {})


class Interrupted(KeyboardInterrupt):
    """The user or the system asked to stop; the state is saved and can be resumed.

    Not an ``Exception``: it may be raised in the middle of a library's call, and libraries that
    turn every ``Exception`` into one of their own must let it through.
    """

    exit_code = 130
