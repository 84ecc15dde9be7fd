"""The gate: who becomes champion, who does not, and the way back."""

import getpass
import json
import tempfile
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from busi_search.errors import BusiSearchError, GateRefused, InputError
from busi_search.home import Home
from busi_search.interrupts import interrupts_wait
from busi_search.models.evaluations import AGAINST_CHAMPION, evaluated_figures
from busi_search.models.registry import (
    CANDIDATE,
    CHAMPION,
    MODEL_NAME,
    PREVIOUS_CHAMPION,
    RegisteredVersion,
    add_tags,
    current_champion,
    find_version,
    list_versions,
    open_registry,
)
from busi_search.release.comparison import AgainstChampion
from busi_search.release.evaluation import check_ledger_of, evaluate_sealed_test
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import Gate
from busi_search.study_files import parse_spec


@dataclass(frozen=True)
class Decision:
    """What a promotion did, and why."""

    decision: str
    reasons: tuple[str, ...]
    champion: RegisteredVersion
    previous_champion: RegisteredVersion | None


def promote(
    home: Home,
    *,
    version: str | None = None,
    name: str = MODEL_NAME,
    gate: Gate | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Decision:
    """Point ``champion`` at a version (default: the candidate), remembering the one before.

    Args:
        home: where the stores are.
        version: number or alias.
        name: of the registered model.
        gate: limits (default: :class:`busi_search.spec.Gate`'s own).
        force: promote although the gate refuses.
        reason: why; needed with ``force``, and recorded.

    Raises:
        InputError: no such version, or ``force`` without a reason.
        GateRefused: the gate says no; nothing was changed.
    """
    check_force(force, reason)
    client = open_registry(home)
    with FileLock(home.root / "promote.lock"):
        chosen = find_version(home, version or CANDIDATE, name=name)
        aliases = {a: v for v in list_versions(home, name=name) for a in v.aliases}
        current = aliases.get(CHAMPION)
        if current is not None and current.version == chosen.version:
            before = aliases.get(PREVIOUS_CHAMPION)
            return Decision("promoted", ("it is the champion already",), chosen, before)
        refusals = _refusals(home, chosen, current, gate or Gate())
        if refusals and not force:
            raise GateRefused(
                f"Version {chosen.version} of '{name}' was not promoted: {'; '.join(refusals)}. "
                "If you must: --force --reason TEXT.",
                tuple(refusals),
            )
        record = {
            "busi.promoted_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "busi.promoted_by": _user(),
            "busi.promotion": "forced" if refusals else "promoted",
        }
        if reason:
            record["busi.promotion_reason"] = reason
        add_tags(home, chosen, record)
        _log_record(client, chosen, {**chosen.tags, **record, "reasons": refusals}, current)
        # An interrupt comes before both aliases move or after.
        with interrupts_wait():
            if current is not None:
                client.set_registered_model_alias(name, PREVIOUS_CHAMPION, current.version)
            client.set_registered_model_alias(name, CHAMPION, chosen.version)
    return Decision(
        decision="forced" if refusals else "promoted",
        reasons=(*refusals, *((reason,) if reason else ())),
        champion=find_version(home, chosen.version, name=name),
        previous_champion=current,
    )


def _log_record(
    client: Any,
    chosen: RegisteredVersion,
    record: Mapping[str, Any],
    before: RegisteredVersion | None,
) -> None:
    """Keep who promoted what, when, on which figures and hashes, with the version's run."""
    content = {
        "model": chosen.name,
        "version": chosen.version,
        "previous_champion": before.version if before else None,
        **{key.removeprefix("busi."): value for key, value in record.items()},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"promotion_v{chosen.version}.json"
        path.write_text(json.dumps(content, indent=1), encoding="utf-8")
        client.log_artifact(chosen.run_id, str(path))


def check_force(force: bool, reason: str | None) -> None:
    """Raise an InputError if somebody forces a promotion without saying why."""
    if force and not (reason and reason.strip()):
        raise InputError("--force needs a reason that is recorded: add --reason TEXT.")


def _refusals(
    home: Home, chosen: RegisteredVersion, champion: RegisteredVersion | None, gate: Gate
) -> list[str]:
    """Reasons why a version may not become champion by itself."""
    if chosen.simulated:
        return ["it was trained on simulated phantoms, whose scores mean nothing for patients"]
    try:
        check_ledger_of(home, chosen)
    except BusiSearchError as error:
        return [str(error).removesuffix(".")]
    figures = evaluated_figures(home, chosen)
    study = chosen.tags.get("busi.study", "NAME")
    if figures is None:
        return [f"it was not evaluated on the sealed test (busi-search evaluate {study})"]
    refusals = beyond_limits(figures, gate)
    if champion is not None:
        refusals += _compared_with(champion, comparison_of(chosen), study, gate)
    return refusals


def beyond_limits(figures: Mapping[str, float], gate: Gate) -> list[str]:
    """Return which figures are beyond the gate's limits; it decides on all of their digits.

    Args:
        figures: of the sealed test, by name.
        gate: limits.
    """
    refusals = []
    sensitivity, ece = figures["sensitivity"], figures["ece"]
    if gate.min_sensitivity is not None and sensitivity < gate.min_sensitivity:
        refusals.append(f"sensitivity {_apart(sensitivity, 'is below', gate.min_sensitivity)}")
    if gate.max_ece is not None and ece > gate.max_ece:
        refusals.append(f"calibration error {_apart(ece, 'is above', gate.max_ece)}")
    return refusals


def _apart(value: float, relation: str, limit: float) -> str:
    """Write two numbers with three digits, or with as many as it takes to tell them apart."""
    digits = 3
    while digits < 9 and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f} {relation} {limit:.{digits}f}"


def comparison_of(version: RegisteredVersion) -> AgainstChampion | None:
    """Return how a version did beside the champion when it was evaluated; None: not compared."""
    stored = version.tags.get(AGAINST_CHAMPION)
    return None if stored is None else AgainstChampion.from_json(json.loads(stored))


def _compared_with(
    champion: RegisteredVersion, compared: AgainstChampion | None, study: str, gate: Gate
) -> list[str]:
    """Reasons from the paired comparison with the champion on the same sealed test."""
    if compared is None or compared.champion != champion.version:
        return [
            f"it was not compared with the champion, version {champion.version} "
            f"(busi-search evaluate {study})"
        ]
    if isinstance(compared.found, str):
        return [f"it cannot be compared with version {champion.version}: {compared.found}"]
    difference, (low, high) = compared.found.auc, compared.found.ci95
    if difference < -gate.max_auc_drop:
        return [
            f"its AUC is {difference:+.3f} (95 % interval {low:+.3f} to {high:+.3f}) against "
            f"version {champion.version}; at most -{gate.max_auc_drop:.3f} is allowed"
        ]
    return []


def rollback(home: Home, *, name: str = MODEL_NAME) -> Decision:
    """Make the previous champion the champion again.

    Raises:
        InputError: there is no previous champion.
    """
    client = open_registry(home)
    with FileLock(home.root / "promote.lock"):
        aliases = {a: v for v in list_versions(home, name=name) for a in v.aliases}
        before, current = aliases.get(PREVIOUS_CHAMPION), aliases.get(CHAMPION)
        if before is None:
            raise InputError(f"'{name}' has no previous champion to go back to.")
        with interrupts_wait():
            client.set_registered_model_alias(name, CHAMPION, before.version)
            client.delete_registered_model_alias(name, PREVIOUS_CHAMPION)
            client.set_model_version_tag(
                name, before.version, "busi.rolled_back_at", time.strftime("%Y-%m-%dT%H:%M:%S%z")
            )
    return Decision(
        decision="rolled back",
        reasons=(),
        champion=find_version(home, before.version, name=name),
        previous_champion=current,
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def promote_after_evaluation(
    home: Home,
    *,
    version: str | None = None,
    name: str = MODEL_NAME,
    gate: Gate | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Decision:
    """Promote a version, evaluating it first where the gate needs figures that are not there.

    Args: as :func:`promote`; ``gate`` defaults to the ``[gate]`` of the study's file.

    Raises:
        InputError: no such version, ``force`` without a reason, or the test cannot be opened.
        GateRefused: the gate says no; nothing was promoted.
    """
    check_force(force, reason)
    chosen = find_version(home, version or CANDIDATE, name=name)
    champion = current_champion(home, name=name)
    compared = comparison_of(chosen)
    missing = evaluated_figures(home, chosen) is None or (
        champion is not None and (compared is None or compared.champion != champion.version)
    )
    is_champion = champion is not None and champion.version == chosen.version
    if missing and not (chosen.simulated or force or is_champion):
        evaluate_sealed_test(home, chosen.tags["busi.study"], version=chosen.version)
    limits = gate or study_gate(home, chosen.tags.get("busi.study", ""))
    return promote(home, version=chosen.version, name=name, gate=limits, force=force, reason=reason)


def study_gate(home: Home, study_name: str) -> Gate:
    """Return the ``[gate]`` of a study's file; the default where the study is not on this home."""
    try:
        text = StudyRecord(find_study(home, study_name)).spec_text
    except InputError:
        return Gate()
    return parse_spec(tomllib.loads(text), origin=f"study '{study_name}'").gate if text else Gate()
