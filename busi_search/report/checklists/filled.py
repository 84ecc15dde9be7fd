"""A reporting guideline, item by item: what the report answers, and what is left to write."""

import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from busi_search.spec import About

CHECKLISTS = ("tripod-ai", "claim", "stard-ai")
State = Literal["answered", "partly", "left"]
STATES: tuple[State, ...] = ("answered", "partly", "left")
IN_WORDS: Mapping[State, str] = {
    "answered": "answered",
    "partly": "partly answered",
    "left": "left to the researcher",
}


@dataclass(frozen=True)
class Answer:
    """One item of a checklist for one study.

    Attributes:
        number, section, asks: of the item.
        said: sentences that answer it, from the study and from ``[about]``.
        left: sentences that say what is still to be written.
    """

    number: str
    section: str
    asks: str
    said: tuple[str, ...]
    left: tuple[str, ...]

    @property
    def state(self) -> State:
        """Whether the item is answered, partly, or left to the researcher."""
        if not self.left:
            return "answered"
        return "partly" if self.said else "left"


@dataclass(frozen=True)
class Checklist:
    """A guideline, filled in.

    Attributes:
        title: of the guideline.
        source: where it was published.
        answers: item by item.
    """

    title: str
    source: str
    answers: tuple[Answer, ...]

    @property
    def counts(self) -> dict[State, int]:
        """Number of items in each state."""
        found = Counter(answer.state for answer in self.answers)
        return {state: found[state] for state in STATES}


def fill_checklist(name: str, facts: Mapping[str, str | None], about: About) -> Checklist:
    """Fill a guideline in.

    Args:
        name: one of ``CHECKLISTS``.
        facts: what the study knows about itself, see :func:`.study_facts`; None: not yet.
        about: what its file says of it.
    """
    file = files("busi_search.report.checklists") / f"{name}.toml"
    raw = tomllib.loads(file.read_text(encoding="utf-8"))
    written = about.model_dump()
    answers = []
    for item in raw["item"]:
        said, left = list[str](), list[str]()
        for key in item.get("facts", ()):
            found = facts[key]
            said += [found] if found is not None else []
            left += [MISSING[key]] if found is None else []
        for key in item.get("about", ()):
            said += [written[key].strip()] if written[key].strip() else []
            left += [] if written[key].strip() else [f"Write `{key}` in `[about]`."]
        left += [item["left"]] if "left" in item else []
        answers.append(
            Answer(item["number"], item["section"], item["asks"], tuple(said), tuple(left))
        )
    return Checklist(raw["title"], raw["source"], tuple(answers))


# What to do where a fact is not there yet.
MISSING: Mapping[str, str] = {
    "sealed_test": "Open the sealed test with `busi-search evaluate`.",
    "confusion": "Open the sealed test with `busi-search evaluate`.",
    "version": "Register the winner: run the same `busi-search run` command again.",
    "elsewhere": "Test the model on images from another hospital.",
    "subgroups": "Give `site`, `device`, `age` or `birads` in a table of the images.",
    "devices": "Give `device` in a table of the images, or name the devices.",
}


def checklist_markdown(checklist: Checklist, study: str) -> str:
    """Return a filled checklist as a Markdown document.

    Args:
        checklist: filled in.
        study: title of the study.
    """
    counts = checklist.counts
    summary = ", ".join(f"{counts[state]} {IN_WORDS[state]}" for state in STATES)
    lines = [
        f"# {checklist.title}: {_cell(study)}",
        f"{len(checklist.answers)} items: {summary}.",
        "The items are shortened in our own words; hand in the guideline's own form "
        f"({checklist.source}). What the software says of the study is checked against what it "
        "stores; what comes from `[about]` is the researcher's. Nothing here judges the quality "
        "of the study.",
        "| item | asks for | the report says | still to be written |\n|---|---|---|---|\n"
        + "\n".join(_row(answer) for answer in checklist.answers),
    ]
    return "\n\n".join(lines) + "\n"


def _row(answer: Answer) -> str:
    cells = (
        f"{answer.number} {answer.section}",
        answer.asks,
        " ".join(answer.said) or "–",
        " ".join(answer.left) or "–",
    )
    return f"| {' | '.join(_cell(cell) for cell in cells)} |"


def _cell(text: str) -> str:
    """Keep a text on one line of a table."""
    return " ".join(text.replace("|", "\\|").split())
