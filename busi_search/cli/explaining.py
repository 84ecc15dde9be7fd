"""The command that explains a study file's keys."""

import textwrap

import click

from busi_search.cli.base import JSON_OPTION, print_json
from busi_search.spec.explanation import Explanation, all_keys, explain_key

COLUMNS = 88
INDENT = 10


def _complete_key(_ctx: click.Context, _parameter: click.Parameter, begun: str) -> list[str]:
    return [found.key for found in all_keys() if found.key.startswith(begun)]


@click.command(short_help="Explain a key of a study file.")
@click.argument("key", shell_complete=_complete_key)
@JSON_OPTION
def explain(key: str, as_json: bool) -> None:
    """Explain a key of a study file: meaning, values, unit, default and its reason, example.

    KEY is a hyperparameter (learning_rate), a section (space) or a key of one (study.pruner).

    \b
    Example:
      busi-search explain learning_rate
    """
    found = explain_key(key)
    if as_json:
        print_json(found.to_json())
        return
    click.echo("\n\n".join([found.key, *_paragraphs(found.meaning), _facts(found)]))


def _paragraphs(text: str) -> list[str]:
    return [textwrap.fill(paragraph, COLUMNS) for paragraph in text.split("\n\n")]


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
