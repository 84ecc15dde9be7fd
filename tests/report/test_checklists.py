import tomllib
from importlib.resources import files
from pathlib import Path

import pytest

from busi_search.errors import InputError
from busi_search.report.checklists.facts import study_facts
from busi_search.report.checklists.filled import (
    CHECKLISTS,
    MISSING,
    checklist_markdown,
    fill_checklist,
)
from busi_search.report.model_card import make_model_card
from busi_search.report.reopened import reopen_winner, study_page
from busi_search.report.study_result import StudyResult
from busi_search.report.study_view import load_study
from busi_search.search.store.open import find_study
from busi_search.spec import About
from busi_search.study_files import about_study, load_spec
from tests.command import call_here

NUM_ITEMS = {"tripod-ai": (27, 52), "claim": (44, 44), "stard-ai": (47, 51)}


def facts_of(result: StudyResult, *, tested: bool = False) -> dict[str, str | None]:
    winner = reopen_winner(result.context.home, result.context.name)
    entry = {"kind": "figures", "version": "1", "num_images": 9, "auc": 0.8, "accuracy": 0.7}
    entry |= {"auc_ci95": [0.6, 0.9], "sensitivity": 0.9, "specificity": 0.5}
    ledger = [entry] if tested else []
    return study_facts(
        winner,
        make_model_card(winner, ledger),
        ledger=ledger,
        versions={"torch": "2"},
        version="1",
    )


@pytest.mark.parametrize("name", CHECKLISTS)
def test_every_item_of_the_guideline_is_there_once(name: str, tiny_result: StudyResult) -> None:
    filled = fill_checklist(name, facts_of(tiny_result), About())
    numbers = [answer.number for answer in filled.answers]
    main = {number.rstrip("abcdefg") for number in numbers}
    assert (len(main), len(numbers)) == NUM_ITEMS[name]
    assert len(set(numbers)) == len(numbers)
    for answer in filled.answers:
        assert answer.said or answer.left, answer.number


def test_every_fact_is_asked_for_and_every_item_names_known_ones(tiny_result: StudyResult) -> None:
    facts = facts_of(tiny_result)
    asked = set()
    for name in CHECKLISTS:
        text = (files("busi_search.report.checklists") / f"{name}.toml").read_text("utf-8")
        for item in tomllib.loads(text)["item"]:
            assert set(item) <= {"number", "section", "asks", "facts", "about", "left"}
            assert set(item.get("about", ())) <= set(About.model_fields)
            asked |= set(item.get("facts", ()))
    assert asked == set(facts)
    assert {key for key, fact in facts.items() if fact is None} <= set(MISSING)


def test_what_the_researcher_writes_answers_what_was_left(tiny_result: StudyResult) -> None:
    facts = facts_of(tiny_result)
    empty = fill_checklist("claim", facts, About())
    told = fill_checklist("claim", facts, About(reference_standard="Histology of all lesions"))
    states = [
        [answer.state for answer in filled.answers if answer.number == "14"]
        for filled in (empty, told)
    ]
    assert states == [["partly"], ["answered"]]
    assert told.counts["answered"] > empty.counts["answered"]
    assert sum(told.counts.values()) == len(told.answers) == 44


def test_the_sealed_test_answers_once_it_was_opened(tiny_result: StudyResult) -> None:
    before = fill_checklist("stard-ai", facts_of(tiny_result), About())
    after = fill_checklist("stard-ai", facts_of(tiny_result, tested=True), About())
    row = {answer.number: answer for answer in before.answers}["24"]
    assert row.state == "left"
    assert "busi-search evaluate" in row.left[0]
    row = {answer.number: answer for answer in after.answers}["24"]
    assert row.state == "answered"
    assert "AUC 0.800" in row.said[0]


def test_the_file_is_a_table_whose_cells_hold(tiny_result: StudyResult) -> None:
    about = About(ethics="Board A | B\nno. 7", title="T")
    page = checklist_markdown(fill_checklist("tripod-ai", facts_of(tiny_result), about), "T")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert len(rows) == 52 + 1
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)
    assert "Board A \\| B no. 7" in page


def test_the_command_writes_it_and_says_how_much(tiny_result: StudyResult, tmp_path: Path) -> None:
    target = tmp_path / "claim.md"
    home, name = tiny_result.context.home, tiny_result.context.name
    words = ["report", name, "--checklist", "claim", "--to", str(target)]
    done = call_here("--home", str(home.root), *words)
    assert done.returncode == 0
    assert "of 44 items" in done.stderr
    assert target.read_text(encoding="utf-8").startswith("# CLAIM 2024: ")
    with pytest.raises(InputError, match="No checklist 'calim'"):
        load_study(name, home=home).checklist("calim")


def test_about_is_read_from_the_file_and_changes_no_identity(
    tiny_result: StudyResult, tmp_path: Path
) -> None:
    assert about_study("") == About()
    text = '[dataset]\nsource = "busi"\n[about]\ntitle = "<b>Two</b> hospitals"\n'
    file = tmp_path / "study.toml"
    file.write_text(text, encoding="utf-8")
    spec, kept = load_spec(str(file), ("about.contact=me",))
    assert spec.about == about_study(kept) == About(title="<b>Two</b> hospitals", contact="me")
    with pytest.raises(InputError, match=r"about\.titel"):
        load_spec(str(file), ('about.titel="x"',))
    context = tiny_result.context
    study = find_study(context.home, context.name)
    before = study.user_attrs["spec_text"]
    try:
        study.set_user_attr("spec_text", f"{before}\n[about]\ntitle = '<b>Two</b> hospitals'\n")
        page = study_page(context.home, context.name)
    finally:
        study.set_user_attr("spec_text", before)
    assert "&lt;b&gt;Two&lt;/b&gt; hospitals" in page
    assert "<b>Two</b>" not in page.split("<h2")[1]
