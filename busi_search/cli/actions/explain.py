"""Explain a study file's keys."""

import textwrap

import click

from busi_search.cli.actions.shared import print_json
from busi_search.spec.explanation import Explanation, explain_key

COLUMNS = 88
INDENT = 10


def explain(ctx: click.Context, key: str, as_json: bool) -> None:
    """What ``busi-search explain`` does."""
    del ctx
    found = explain_key(key)
    if as_json:
        print_json(found.to_json())
        return
    click.echo("\n\n".join([found.key, *_paragraphs(found.meaning), _facts(found)]))


def _paragraphs(text: str) -> list[str]:
    return [
        textwrap.fill(paragraph, COLUMNS, break_on_hyphens=False)  # commands stay whole
        for paragraph in text.split("\n\n")
    ]


def _facts(found: Explanation) -> str:
    facts = {
        "values": found.values,
        "unit": found.unit,
        "default": found.default_in_words,
        "where": found.where,
    }
    lines = [
        textwrap.fill(
            f"{label:<{INDENT}}{fact}",
            COLUMNS,
            subsequent_indent=" " * INDENT,
            break_on_hyphens=False,
        )
        for label, fact in facts.items()
        if fact
    ]
    first, *others = found.example.splitlines()
    lines.append(f"{'example':<{INDENT}}{first}")
    lines += [f"{' ' * INDENT}{line}".rstrip() for line in others]
    return "\n".join(lines)
