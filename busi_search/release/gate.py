"""The gate: who becomes champion, who does not, and the way back."""

import getpass
import json
import shlex
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock

from busi_search.errors import BusiSearchError, GateRefused, InputError
from busi_search.files import without_nan
from busi_search.home import Home
from busi_search.interrupts import interrupts_wait
from busi_search.models.evaluations import (
    AGAINST_BEST,
    AGAINST_CHAMPION,
    evaluated_figures,
    find_recording_run,
)
from busi_search.models.registry import (
    CANDIDATE,
    CHAMPION,
    PREVIOUS_CHAMPION,
    RegisteredVersion,
    add_tags,
    current_champion,
    find_version,
    list_versions,
    matching_versions,
    open_registry,
)
from busi_search.release.comparison import AgainstChampion, rivals
from busi_search.release.evaluation import evaluate_sealed_test
from busi_search.release.gate_rule import Judgement, judge
from busi_search.release.registration import REBUILT, WEIGHTS_SHA256
from busi_search.release.study_gate import gate_of
from busi_search.release.version_study import check_ledger_of, study_of_version
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.seal_register import num_openings_of_study
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import Gate


@dataclass(frozen=True)
class Decision:
    """What a promotion did, and why.

    Attributes:
        decision: promoted, forced or rolled back.
        reasons: of the gate against it, and the one given with ``force``.
        champion: who is champion now.
        previous_champion: who was before.
        notes, evidence: see :class:`busi_search.release.gate_rule.Judgement`.
    """

    decision: str
    reasons: tuple[str, ...]
    champion: RegisteredVersion
    previous_champion: RegisteredVersion | None
    notes: tuple[str, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)


def promote(
    home: Home,
    *,
    version: str | None = None,
    name: str | None = None,
    gate: Gate | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Decision:
    """Point ``champion`` at a version (default: the candidate), remembering the one before.

    Args:
        home: where the stores are.
        version: number or alias.
        name: of the registered model; None: see :func:`find_version`.
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
        name = chosen.name
        aliases = {a: v for v in list_versions(home, name=name) for a in v.aliases}
        current = aliases.get(CHAMPION)
        if current is not None and current.version == chosen.version:
            before = aliases.get(PREVIOUS_CHAMPION)
            return Decision("promoted", ("it is the champion already",), chosen, before)
        limits = gate or Gate()
        judgement = _judge(home, chosen, limits)
        refusals = judgement.refusals
        if refusals and not force:
            reasons, notes = "; ".join(refusals), "".join(f" {note}" for note in judgement.notes)
            raise GateRefused(
                f"Version {chosen.version} of '{name}' was not promoted: {reasons}.{notes} "
                "If you must: --force --reason TEXT.",
                refusals,
                notes=judgement.notes,
                evidence=judgement.evidence,
            )
        record = {
            "busi.promoted_at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "busi.promoted_by": _user(),
            "busi.promotion": "forced" if refusals else "promoted",
        }
        if reason:
            record["busi.promotion_reason"] = reason
        content = {
            **{key.removeprefix("busi."): value for key, value in (chosen.tags | record).items()},
            "reasons": refusals,
            "evidence": judgement.evidence,
            "limits": limits.model_dump(),
        }
        _log_record(client, home, chosen, content, current)
        # An interrupt comes before both aliases move or after. The tags, by which it counts as a
        # former champion, come with them: what may fail was done before.
        with interrupts_wait():
            add_tags(home, chosen, record)
            if current is not None:
                client.set_registered_model_alias(name, PREVIOUS_CHAMPION, current.version)
            client.set_registered_model_alias(name, CHAMPION, chosen.version)
    return Decision(
        decision="forced" if refusals else "promoted",
        reasons=(*refusals, *((reason,) if reason else ())),
        champion=find_version(home, chosen.version, name=name),
        previous_champion=current,
        notes=judgement.notes,
        evidence=judgement.evidence,
    )


def _log_record(
    client: Any,
    home: Home,
    chosen: RegisteredVersion,
    record: Mapping[str, Any],
    before: RegisteredVersion | None,
) -> None:
    """Keep who promoted what, when, on which figures and hashes, with the version's run."""
    study = study_of_version(home, chosen)
    tracked = None if study is None else StudyRecord(study).tracked
    run_id = find_recording_run(home, chosen, None if tracked is None else tracked.run_id)
    content = {
        "model": chosen.name,
        "version": chosen.version,
        "previous_champion": before.version if before else None,
        **record,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"promotion_v{chosen.version}.json"
        path.write_text(json.dumps(without_nan(content), indent=1), encoding="utf-8")
        with tracking_errors(home):
            client.log_artifact(run_id, str(path))


def check_force(force: bool, reason: str | None) -> None:
    """Raise an InputError if somebody forces a promotion without saying why."""
    if force and not (reason and reason.strip()):
        raise InputError("--force needs a reason that is recorded: add --reason TEXT.")


def _judge(home: Home, chosen: RegisteredVersion, gate: Gate) -> Judgement:
    """Ask the gate; a version about which too little is known is refused at once."""

    def refused(reason: str) -> Judgement:
        return Judgement((reason,), (), {})

    if (reason := refused_by_tags(chosen)) is not None:
        return refused(reason)
    try:
        check_ledger_of(home, chosen)
    except BusiSearchError as error:
        return refused(str(error).removesuffix("."))
    figures = evaluated_figures(home, chosen)
    study = chosen.tags.get("busi.study", "NAME")
    if figures is None:
        line = shlex.join(["busi-search", "evaluate", study])
        return refused(f"it was not evaluated on the sealed test ({line})")
    known, compared = comparisons_of(chosen), []
    for rival in rivals(home, chosen):
        if rival.version not in known:
            which = "the champion" if CHAMPION in rival.aliases else "the best champion so far"
            return refused(
                f"it was not compared with {which}, version {rival.version} "
                f"({shlex.join(['busi-search', 'evaluate', study])})"
            )
        compared.append(known[rival.version])
    return judge(figures, compared, gate, openings=count_openings(home, study))


def refused_by_tags(version: RegisteredVersion) -> str | None:
    """Return why a version cannot be promoted whatever it scores on a test; None if it may be.

    Asked before a test is opened for it.
    """
    if version.simulated:
        return "it was trained on simulated phantoms, whose scores mean nothing for patients"
    if not version.tags.get("busi.study") or not version.tags.get("busi.partition"):
        return (
            "it was not registered by busi-search: it has no tags busi.study and busi.partition, "
            "so that no sealed test is known for it"
        )
    if REBUILT in version.tags and WEIGHTS_SHA256 not in version.tags:
        return "its export was never checked (it has no tag busi.weights_sha256)"
    return None


def count_openings(home: Home, study: str) -> int:
    """Return how often images of a study's sealed test were opened; what ``max_openings`` limits.

    Zero for a study of another home, whose ledger is not here.
    """
    try:
        return num_openings_of_study(home, study)
    except InputError:
        return 0


def comparisons_of(version: RegisteredVersion) -> dict[str, AgainstChampion]:
    """Return how a version did beside champions when it was evaluated, by their versions."""
    stored = [version.tags[tag] for tag in (AGAINST_BEST, AGAINST_CHAMPION) if tag in version.tags]
    found = [AgainstChampion.from_json(json.loads(text)) for text in stored]
    return {compared.champion: compared for compared in found}


def rollback(home: Home, *, name: str | None = None) -> Decision:
    """Make the previous champion the champion again.

    Raises:
        InputError: there is no previous champion.
    """
    client = open_registry(home)
    with FileLock(home.root / "promote.lock"):
        known = matching_versions(home, PREVIOUS_CHAMPION, name=name)
        if not known:
            which = f"'{name}' has" if name else "There is"
            raise InputError(f"{which} no previous champion to go back to.")
        before, name = known[0], known[0].name
        current = current_champion(home, name=name)
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
    name: str | None = None,
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
    name = chosen.name
    compared = comparisons_of(chosen)
    missing = evaluated_figures(home, chosen) is None or any(
        rival.version not in compared for rival in rivals(home, chosen)
    )
    refused = refused_by_tags(chosen) is not None
    if missing and not (refused or force or CHAMPION in chosen.aliases):
        if study_of_version(home, chosen) is None:
            raise InputError(
                f"Version {chosen.version} of '{name}' was made by a study "
                f"'{chosen.tags['busi.study']}' that is not on this home (another one may have its "
                "name); evaluate it where it was made."
            )
        study = chosen.tags["busi.study"]
        evaluate_sealed_test(home, study, version=chosen.version, model=chosen.name)
    limits = gate or gate_of(home, chosen)
    return promote(home, version=chosen.version, name=name, gate=limits, force=force, reason=reason)
