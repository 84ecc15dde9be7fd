"""Commands that keep a home in order: what is wrong, and what MLflow has missed."""

import click

from busi_search.cli.base import (
    JSON_OPTION,
    complete_study,
    home_of,
    on_stop,
    print_json,
)
from busi_search.errors import BusiSearchError


@click.command(short_help="Say what works here and what was left behind.")
@click.option("--fix", is_flag=True, help="Mend what can be mended without a loss.")
@JSON_OPTION
@click.pass_context
def doctor(ctx: click.Context, fix: bool, as_json: bool) -> None:
    """Say what works here and what was left behind, each with the line that mends it.

    Exit code 1 if a problem is left.

    \b
    Example:
      busi-search doctor --fix
    """
    from busi_search.upkeep.doctor import examine

    findings = examine(home_of(ctx), fix=fix)
    problems = [finding for finding in findings if finding.state == "problem"]
    if as_json:
        print_json({"ok": not problems, "findings": [vars(finding) for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.state:<8}{finding.about}: {finding.text}")
            if finding.mend:
                click.echo(f"{'':<8}→ {finding.mend}")
    if problems:
        raise BusiSearchError(f"{len(problems)} problem(s) found; each names what mends it.")


@click.command(short_help="Send MLflow the finished trials it lacks.")
@click.argument("name", required=False, shell_complete=complete_study)
@JSON_OPTION
@click.pass_context
def sync(ctx: click.Context, name: str | None, as_json: bool) -> None:
    """Send MLflow the finished trials it is without, of one study or of all.

    \b
    Example:
      busi-search sync busi
    """
    on_stop(lambda: "Interrupted; what is sent is sent, the same line sends the rest.")
    from busi_search.upkeep.sync import sync_studies

    synced = sync_studies(home_of(ctx), [name] if name else None)
    if as_json:
        print_json({"studies": [vars(study) for study in synced]})
    else:
        for study in synced:
            click.echo(
                f"{study.study}: {study.num_sent} trial(s) sent, {study.num_there} were there"
                if study.problem is None
                else f"{study.study}: not sent: {study.problem}"
            )
    failed = [study.study for study in synced if study.problem is not None]
    if failed:
        raise BusiSearchError(
            f"{', '.join(failed)} could not be sent; nothing is lost, the same line tries again."
        )
