"""Who is the champion."""

from collections.abc import Mapping
from typing import Any

import click

from busi_search.cli.actions.refresh import refresh_report
from busi_search.cli.actions.shared import home_of, print_json
from busi_search.cli.base import on_stop
from busi_search.errors import GateRefused
from busi_search.home import Home
from busi_search.models import registry
from busi_search.release import gate, study_gate
from busi_search.release.gate_rule import evidence_in_words
from busi_search.search.mlflow.ledger_anchor import LEDGER_TAG
from busi_search.search.status import foreign_note


def promote(
    ctx: click.Context,
    version: str | None,
    model: str | None,
    max_auc_drop: float | None,
    confidence: float | None,
    max_openings: int | None,
    min_auc: float | None,
    min_sensitivity: float | None,
    max_ece: float | None,
    force: bool,
    reason: str | None,
    as_json: bool,
) -> None:
    """What ``busi-search promote`` does."""
    on_stop(lambda: "Interrupted; `busi-search models` shows who is champion.")
    home, wanted = home_of(ctx), version or registry.CANDIDATE
    gate.check_force(force, reason)
    chosen = registry.find_version(home, wanted, name=model)
    name = chosen.name
    if (meant := registry.choice_note(home, wanted, chosen, name=model)) is not None:
        click.echo(meant, err=True)
    flags = {
        "max_auc_drop": max_auc_drop,
        "confidence": confidence,
        "max_openings": max_openings,
        "min_auc": min_auc,
        "min_sensitivity": min_sensitivity,
        "max_ece": max_ece,
    }
    given = {key: value for key, value in flags.items() if value is not None}
    limits = study_gate.gate_of(home, chosen).model_copy(update=given)
    if (unused := study_gate.unused_gate(home, chosen)) is not None:
        click.echo(f"Note: {unused}.", err=True)
    if (note := foreign_note(home, chosen.tags.get("busi.study", ""))) is not None:
        click.echo(note, err=True)
    try:
        decision = gate.promote_after_evaluation(
            home,
            version=chosen.version,
            name=name,
            gate=limits,
            force=force,
            reason=reason,
        )
    except GateRefused as error:
        if as_json:
            champion = registry.current_champion(home, name=name)
            shown = {"version": champion.version} if champion else None
            print_json(
                {
                    "decision": "refused",
                    "reasons": list(error.reasons),
                    "champion": shown,
                    "previous_champion": None,
                    "notes": list(error.notes),
                    "evidence": error.evidence,
                }
            )
        else:
            _show_figures(chosen, error.evidence)
        raise
    finally:
        _refresh_if_tested(home, chosen)
    _show_decision(decision, as_json)


def _refresh_if_tested(home: Home, version: registry.RegisteredVersion) -> None:
    """Render the report again where the gate opened the sealed test before it decided."""
    now = registry.find_version(home, version.version, name=version.name)
    if now.tags.get(LEDGER_TAG) != version.tags.get(LEDGER_TAG):
        refresh_report(home, version.tags["busi.study"])


def rollback(ctx: click.Context, model: str | None, as_json: bool) -> None:
    """What ``busi-search rollback`` does."""
    on_stop(lambda: "Interrupted; `busi-search models` shows who is champion.")
    _show_decision(gate.rollback(home_of(ctx), name=model), as_json)


def _show_figures(version: registry.RegisteredVersion, evidence: Mapping[str, Any]) -> None:
    """Print what was decided on; nothing where a test was not needed for it."""
    for line in evidence_in_words(evidence):
        click.echo(f"version {version.version} of {version.name}: {line}", err=True)


def _show_decision(decision: gate.Decision, as_json: bool) -> None:
    before = decision.previous_champion
    if as_json:
        print_json(
            {
                "decision": decision.decision,
                "reasons": list(decision.reasons),
                "champion": {"name": decision.champion.name, "version": decision.champion.version},
                "previous_champion": before and {"name": before.name, "version": before.version},
                "notes": list(decision.notes),
                "evidence": decision.evidence,
            }
        )
        return
    _show_figures(decision.champion, decision.evidence)
    was = f" (before: version {before.version})" if before else ""
    click.echo(
        f"{decision.decision}: version {decision.champion.version} of {decision.champion.name} "
        f"is the champion{was}",
        err=True,
    )
    for line in (*decision.reasons, *decision.notes):
        click.echo(f"  {line}", err=True)
