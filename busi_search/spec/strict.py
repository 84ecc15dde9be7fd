"""What every part of a study file has in common."""

import difflib

from pydantic import BaseModel, ConfigDict

Scalar = bool | int | float | str


class Strict(BaseModel):
    """A part of a study file: unknown keys are errors, and nothing changes once it is read.

    The text below a field is its documentation. After what the field means come, each starting a
    line, ``Unit:``, ``Default:`` (why the default is what it is, or what holds without one) and
    ``Example:`` (lines of a study file). :mod:`busi_search.spec.explanation` reads it.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def nearest(word: str, known: list[str]) -> str:
    """Return what a mistyped word may have meant, as the end of a sentence."""
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{match[0]}'?" if match else f"known keys: {', '.join(sorted(known))}"
