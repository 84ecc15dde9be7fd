"""The [gate] of a study's file, as it was last run and as it is written now."""

import re
import shlex
import tomllib
from pathlib import Path

from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.models.registry import (
    RegisteredVersion,
)
from busi_search.release.version_study import study_of_version
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import Gate
from busi_search.study_files import load_spec, parse_spec, with_overrides


def gate_of(home: Home, version: RegisteredVersion) -> Gate:
    """Return the ``[gate]`` of the study that made a version, as it was last run.

    The default where that study is not on this home, or only another one of its name.
    """
    study = study_of_version(home, version)
    return Gate() if study is None else study_gate(home, study.study_name)


def study_gate(home: Home, study_name: str) -> Gate:
    """Return the ``[gate]`` of a study's file; the default where the study is not on this home."""
    try:
        record = StudyRecord(find_study(home, study_name))
    except InputError:
        return Gate()
    if record.gate is not None:
        return record.gate
    text = record.spec_text
    if not text:
        return Gate()
    # A study of an earlier version, which kept its file only, overrides as comments.
    overrides = re.findall(r"^# --set (gate\..*)$", text, flags=re.MULTILINE)
    raw = with_overrides(tomllib.loads(text), overrides)
    return parse_spec(raw, origin=f"study '{study_name}'").gate


def unused_gate(home: Home, version: RegisteredVersion) -> str | None:
    """Return that the study's file has another [gate] by now than the one that is used, or None."""
    study = study_of_version(home, version)
    record = None if study is None else StudyRecord(study)
    if study is None or record is None or not Path(record.origin).is_file():
        return None
    try:
        written = load_spec(record.origin)[0].gate
        kept = parse_spec(tomllib.loads(record.spec_text), origin=record.origin).gate
    except BusiSearchError:
        return None
    if written == kept:
        return None
    line = shlex.join(["busi-search", "run", record.origin, "--name", study.study_name])
    return (
        f"the [gate] in {record.origin} was changed since the study was run, and is not used; "
        f"`{line}` takes it over"
    )
