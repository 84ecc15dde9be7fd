"""The page takes files in every way, names them, announces its answer, and has a dark side."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from busi_search.models.loading import load_champion
from busi_search.report.study_result import StudyResult
from tests.serving.test_app import CANDIDATE, png, serving

# Gives the page a file as a drop or a paste does; the clipboard itself belongs to the system.
GIVE = """([kind, name, bytes]) => {
  const transfer = new DataTransfer();
  if (name) transfer.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true })
    : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true });
  document.body.dispatchEvent(event);
}"""


@pytest.fixture(scope="module")
def page(tiny_result: StudyResult) -> Iterator[Page]:
    """The page in a browser without a window."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on this machine")
    classifier = load_champion(tiny_result.context.home, CANDIDATE)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with serving(classifier) as port, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        opened = browser.new_page()
        opened.set_default_timeout(120_000)
        opened.goto(f"http://127.0.0.1:{port}/")
        opened.wait_for_selector("#examples button")
        yield opened
        browser.close()


@pytest.mark.slow
def test_files_come_by_choice_drop_and_paste(
    page: Page, tiny_result: StudyResult, tmp_path: Path
) -> None:
    image = png(tiny_result.context.images(28)[0])
    (tmp_path / "chosen.png").write_bytes(image)
    for kind in ("choice", "drop", "paste"):
        name = f"{kind}.png"
        if kind == "choice":
            (tmp_path / name).write_bytes(image)
            page.set_input_files("#file", tmp_path / name)
        else:
            page.evaluate(GIVE, [kind, name, list(image)])
        page.wait_for_function(
            "name => !document.getElementById('answer').hidden"
            " && document.getElementById('name').textContent === name", arg=name
        )  # fmt: skip
        said = page.text_content("#announcement")
        assert said.startswith(f"{name}: ")
        assert page.text_content("#verdict") in said
    assert page.get_attribute("#announcement", "aria-live") == "polite"
    assert "sealed test" in page.text_content("#tested")
    # The verdict stands before the probabilities, and these before the model.
    order = "#verdict, #probabilities, #familiar, #model"
    assert page.eval_on_selector_all(order, "all => all.map(one => one.id)") == [
        "verdict", "probabilities", "familiar", "model"
    ]  # fmt: skip


@pytest.mark.slow
def test_what_is_no_file_gets_a_sentence(page: Page) -> None:
    page.evaluate(GIVE, ["paste", "", []])
    assert "no image on the clipboard" in page.text_content("#status")
    page.evaluate(GIVE, ["drop", "notes.png", [1, 2, 3]])
    page.wait_for_selector("#status.error:has-text('notes.png')")
    assert page.text_content("#status").startswith("notes.png: ")
    assert page.text_content("#announcement") == ""


@pytest.mark.slow
def test_the_page_is_dark_where_the_system_is(page: Page) -> None:
    brightness = (
        "selector => getComputedStyle(document.querySelector(selector)).backgroundColor"
        ".match(/\\d+/g).slice(0, 3).map(Number).reduce((a, b) => a + b) / 3"
    )
    for scheme, is_dark in (("light", False), ("dark", True)):
        page.emulate_media(color_scheme=scheme)
        for selector in ("body", "#drop"):
            assert (page.evaluate(brightness, selector) < 80) is is_dark, (scheme, selector)
