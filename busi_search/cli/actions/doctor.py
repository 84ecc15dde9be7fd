"""What is wrong with a home."""

import click

from busi_search.cli.actions.shared import home_of, print_json
from busi_search.errors import BusiSearchError
from busi_search.upkeep.doctor import examine
from busi_search.wording import count_of


def doctor(ctx: click.Context, fix: bool, as_json: bool) -> None:
    """What ``busi-search doctor`` does."""
    findings = examine(home_of(ctx), fix=fix)
    problems = [finding for finding in findings if finding.state == "problem"]
    if as_json:
        print_json({"ok": not problems, "findings": [finding.to_json() for finding in findings]})
    else:
        for finding in findings:
            click.echo(f"{finding.state:<8}{finding.about}: {finding.text}")
            if finding.mend:
                click.echo(f"{'':<8}→ {finding.mend}")
    if problems:
        raise BusiSearchError(
            f"{count_of(len(problems), 'problem')} found; each line above prints a fix."
        )
