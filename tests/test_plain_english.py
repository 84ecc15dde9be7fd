"""What people read is plain: no sentence that the guide calls a riddle, no bare decimal point."""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.messages import Message, all_messages

ROOT = Path(__file__).resolve().parents[1]
# Sentences, or what gives them away, that were rewritten once; see CONTRIBUTING.md.
RIDDLES = (
    "best honest",
    "show why it is the best",
    "it goes on where it stopped",
    "below what was promised",
    "the study shall hold",
    "the same line",
    "for at most so many epochs",
    "starts from scratch where they are asked for",
    "that is away is waited for",
    "torn-apart",
    "what was left behind, each with",
    "with the line that mends it",
    "some minutes, once for this home",
    "a chance of",
    "what they leave is taken up",
    "somebody ended them",
    "memory does not suffice",
    "the one to be expected of it",
    "from which probability on",
    "hangs on",
    "DecompressionBomb",
    "what is moved in",
    "flatters",
    "typed again",
    "torn apart",
    "the one there is",
    "of elsewhere",
    "fewer than they seem",
    "no second view, and",
    "set anew",
    "search on.",
)
BARE_DECIMAL = re.compile(r"(?<![\w.…/*\])])\.\d")
# A noun that leaves open how many there are: "3 file(s)".
OPEN_PLURAL = re.compile(r"[a-z]\((?:s|es)\)")


@cache
def messages() -> tuple[Message, ...]:
    return tuple(all_messages())


def _prose(message: Message) -> str:
    """The text without its code, which may be written as other programs want it."""
    return re.sub(r"`[^`]*`", "", message.text)


def _where(found: Iterator[Message]) -> list[str]:
    return [f"{message.place}: {message.text[:200]}" for message in found]


def test_the_list_holds_what_people_read() -> None:
    kinds = {message.kind for message in messages()}
    assert kinds == {"help", "keys", "errors", "printed", "pages", "docs"}
    texts = [message.text for message in messages()]
    for known in (
        "Total number of trials to finish. Run the command again to resume.",
        "Out of memory; close other programs, or use fewer --workers.",
        "# A first search",
    ):
        assert known in texts
    assert any("Step size of the optimizer" in text for text in texts)


@pytest.mark.parametrize("riddle", RIDDLES)
def test_no_riddle_survives(riddle: str) -> None:
    found = (m for m in messages() if riddle.lower() in m.text.lower())
    assert _where(found) == []


def test_numbers_below_one_have_a_leading_zero() -> None:
    found = (m for m in messages() if BARE_DECIMAL.search(_prose(m)))
    assert _where(found) == []


def test_one_is_one_and_two_are_two() -> None:
    found = (m for m in messages() if OPEN_PLURAL.search(_prose(m)))
    assert _where(found) == []


def test_a_riddle_would_be_found(tmp_path: Path) -> None:
    from tests import messages as room

    page = room.PACKAGE / "planted.py"
    assert not page.exists()
    module = tmp_path / "planted.py"
    module.write_text('raise InputError(f"{n} file(s) scored .5; the same line goes on")\n')
    package, room.ROOT = room.ROOT, tmp_path
    try:
        (found,) = room.python_messages(module)
    finally:
        room.ROOT = package
    assert found.kind == "errors"
    assert found.text == "… file(s) scored .5; the same line goes on"
    assert OPEN_PLURAL.search(found.text)
    assert BARE_DECIMAL.search(found.text)
