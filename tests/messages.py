"""Every text that people read, in one list for reviewing.

    uv run python tests/messages.py > messages.txt
    uv run python tests/messages.py errors > errors.txt

A line holds the kind of text, where it stands, and the text, with … for what is filled in. Kinds:
``help`` (of commands and options), ``keys`` (of a study file), ``errors``, ``printed`` (progress,
results, notes), ``pages`` (templates of reports and of the page for one image) and ``docs``
(paragraphs and headings).
"""

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from busi_search.cli import main
from busi_search.spec import StudySpec
from busi_search.spec.explanation import explain_section

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "busi_search"
# What a text is handed to so that people read it.
PRINTING = {"echo", "print", "add_row", "add_column", "secho", "warn"}
MARKUP = re.compile(r"\{%.*?%\}|\{#.*?#\}|<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL)


@dataclass(frozen=True)
class Message:
    """One text.

    Attributes:
        kind: see the module.
        place: file and line, or the command.
        text: on one line; … stands for what is filled in.
    """

    kind: str
    place: str
    text: str


def all_messages() -> Iterator[Message]:
    """Yield every text that people read."""
    yield Message("help", "busi-search", " ".join(inspect.cleandoc(main.help or "").split()))
    yield from help_texts(main)
    for section in StudySpec.model_fields:
        for key in explain_section(section):
            for text in (key.meaning, key.reason):
                yield Message("keys", f"{section}.{key.name}", " ".join(text.split()))
    for path in sorted(PACKAGE.rglob("*.py")):
        yield from python_messages(path)
    for path in sorted(PACKAGE.rglob("templates/*.html")) + sorted(PACKAGE.rglob("page/*.html")):
        yield from page_messages(path)
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        yield from document_messages(path)


def help_texts(group: click.Group, prefix: str = "busi-search") -> Iterator[Message]:
    """Yield the help of every command and of its options."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, f"{name} is listed"
        place = f"{prefix} {name}"
        yield Message("help", f"{place} in the list", command.get_short_help_str(limit=200))
        yield Message("help", place, " ".join(inspect.cleandoc(command.help or "").split()))
        for parameter in command.params:
            if isinstance(parameter, click.Option) and parameter.help:
                yield Message("help", f"{place} {parameter.opts[0]}", parameter.help)
        if isinstance(command, click.Group):
            yield from help_texts(command, place)


def python_messages(path: Path) -> Iterator[Message]:
    """Yield the sentences of a module: raised, printed, or put together for a page."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    seen = set[int]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            raised = name.endswith(("Error", "Away", "Warning", "Exit", "UsageError"))
            if raised or name in PRINTING:
                for argument in node.args:
                    yield from _texts(argument, path, "errors" if raised else "printed", seen)
    # Sentences that are put together elsewhere: with a space, and a capital or a full stop.
    for node in _without_docstrings(tree):
        yield from _texts(node, path, "printed", seen, sentences=True)


def _without_docstrings(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but the strings that stand alone, which are documentation."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        yield node
        # A text is one, whatever is filled into it.
        if not isinstance(node, ast.JoinedStr):
            yield from _without_docstrings(node)


def _texts(
    node: ast.AST, path: Path, kind: str, seen: set[int], *, sentences: bool = False
) -> Iterator[Message]:
    for inner in [node] if sentences else ast.walk(node):
        if id(inner) in seen or not isinstance(inner, ast.JoinedStr | ast.Constant):
            continue
        text = _written(inner)
        seen.add(id(inner))
        if isinstance(inner, ast.JoinedStr):
            seen.update(id(part) for part in inner.values)
        words = re.findall(r"[A-Za-z]{2,}", text)
        if len(words) >= (4 if sentences else 2) and " " in text.strip():
            place = f"{path.relative_to(ROOT)}:{inner.lineno}"
            yield Message(kind, place, " ".join(text.split()))


def _written(node: ast.JoinedStr | ast.Constant) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    parts = (str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return "".join(parts)


def page_messages(path: Path) -> Iterator[Message]:
    """Yield the texts of a template, between its tags."""
    text = path.read_text(encoding="utf-8")
    blank = MARKUP.sub(lambda found: "\x00" + "\n" * found[0].count("\n"), text)
    for found in re.finditer(r"[^\x00]+", re.sub(r"\{\{.*?\}\}", "…", blank, flags=re.DOTALL)):
        if len(re.findall(r"[A-Za-z]{2,}", found[0])) >= 2:
            line = blank.count("\n", 0, found.start()) + 1
            place = f"{path.relative_to(ROOT)}:{line}"
            yield Message("pages", place, " ".join(found[0].split()))


def document_messages(path: Path) -> Iterator[Message]:
    """Yield the paragraphs and headings of a page of the documentation, without its code."""
    text = path.read_text(encoding="utf-8")
    blank = re.sub(
        r"^```.*?^```|<!--.*?-->", lambda found: "\n" * found[0].count("\n"), text,
        flags=re.MULTILINE | re.DOTALL,
    )  # fmt: skip
    for found in re.finditer(r"(?:^(?! {4,}).*\S.*\n?)+", blank, re.MULTILINE):
        line = blank.count("\n", 0, found.start()) + 1
        yield Message("docs", f"{path.relative_to(ROOT)}:{line}", " ".join(found[0].split()))


if __name__ == "__main__":
    for message in all_messages():
        if message.kind in (sys.argv[1:] or [message.kind]):
            print(f"{message.kind:8} {message.place}: {message.text}")
