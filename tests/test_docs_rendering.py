"""The pages as the site renders them: lists are lists, code is code."""

import re
from functools import cache
from pathlib import Path

import markdown
import pytest
from mkdocs.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r"^ {0,3}(?:[*+-]|(\d+)\.)[ \t]+\S", re.MULTILINE)


@cache
def _extensions() -> tuple[list[str], dict[str, dict[str, object]]]:
    config = load_config(str(ROOT / "mkdocs.yml"))
    return config["markdown_extensions"], config["mdx_configs"]


def render(text: str) -> str:
    """Return a page as HTML, with the library and the extensions of the site."""
    names, settings = _extensions()
    known = [name for name in names if name in ("toc", "tables", "fenced_code")]
    return markdown.markdown(text, extensions=known, extension_configs=settings)


def broken_lists(text: str) -> list[str]:
    """Return the items of lists that a page's source has and its HTML has not."""
    written = [found[0].strip() for found in ITEM.finditer(FENCE.sub("", text))]
    html = render(text)
    plain = re.sub(r"<pre>.*?</pre>", "", html, flags=re.DOTALL)
    lost = re.findall(r"(?:<p>|\n)((?:[*+-]|\d+\.) +\S[^\n]*)", plain)
    numbered = [item for item in written if item[0].isdigit()]
    lists = sum(item.startswith("1.") for item in numbered)
    if plain.count("<ol") != lists:
        lost.append(f"{plain.count('<ol')} numbered lists are rendered of {lists}")
    if plain.count("<li>") < len(written):
        lost.append(f"{plain.count('<li>')} items are rendered of {len(written)}")
    return lost


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_list_is_a_list(page: Path) -> None:
    assert broken_lists(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "text",
    [
        "1. one\n\n       code\n\n   more of it\n\n2. two\n",
        "A sentence:\n* one\n* two\n",
        "1. one\n\nA paragraph.\n\n2. two\n",
    ],
    ids=["three spaces", "no empty line", "a paragraph between"],
)
def test_a_list_that_breaks_is_noticed(text: str) -> None:
    assert broken_lists(text)


def test_a_list_with_code_and_paragraphs_passes() -> None:
    assert broken_lists("1. one\n\n        code\n\n    more of it\n\n2. two\n") == []
