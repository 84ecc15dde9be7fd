"""What people see in a browser: the way from the leaderboard to the registered model."""

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

from busi_search.report.study_result import StudyResult
from busi_search.search.mlflow.leaderboard import leaderboard_view
from tests.command import BUSI_SEARCH
from tests.ports import free_port

PORT = free_port()

# The first look at MLflow's interface takes long on a busy machine.
PATIENCE_MS = 120_000


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser without a window."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.skip("no chromium on this machine")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def leaderboard(tiny_result: StudyResult) -> Iterator[str]:
    """The address that `busi-search ui` prints, while it serves."""
    home = str(tiny_result.context.home.root)
    words = ["--home", home, "ui", "--port", str(PORT), "--no-browser"]
    process = subprocess.Popen(
        [*BUSI_SEARCH, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=300)


def test_the_leaderboard_shows_what_was_searched() -> None:
    view = leaderboard_view("cv_log_loss", True, ["head", "dropout"])
    assert json.loads(json.dumps(view)) == view
    assert view["selectedColumns"][0] == "metrics.`cv_log_loss`"
    assert {"params.`head`", "params.`dropout`"} < set(view["selectedColumns"])
    assert "params.`learning_rate`" not in view["selectedColumns"]


@pytest.mark.slow
def test_from_the_leaderboard_to_the_registered_model(
    leaderboard: str, chromium: Browser, tiny_result: StudyResult
) -> None:
    assert tiny_result.release is not None
    name, best = tiny_result.context.name, f"trial-{tiny_result.release.trial:04d}"
    page = chromium.new_page(viewport={"width": 1600, "height": 1000})
    page.set_default_timeout(PATIENCE_MS)
    elsewhere: list[str] = []
    page.on("request", lambda r: elsewhere.append(r.url) if _leaves(r.url) else None)
    # All trials, and nothing but trials, best first: what MLflow's table is given.
    with page.expect_response(lambda r: r.url.endswith("/runs/search")) as answer:
        page.goto(leaderboard)
    rows = [row["info"] for row in answer.value.json()["runs"]]
    assert len(rows) == 4
    assert all(row["run_name"].startswith("trial-") for row in rows)
    assert rows[0]["run_name"] == best
    page.locator(".ag-header-cell[col-id*='dropout']").first.wait_for(state="attached")

    page.goto(f"{leaderboard.partition('?')[0]}/{rows[0]['run_id']}")
    # While a page loads, a text can stand on it twice for an instant.
    page.get_by_text("Trained on all 3 folds").first.wait_for()
    page.get_by_role("tab", name="Artifacts").first.click()
    page.get_by_text("out_of_fold.npz").first.wait_for()

    page.go_back()
    # The trial's parent, which appears late; the links above it lead to the experiment.
    page.locator("a[href*='/runs/']").get_by_text(name, exact=True).first.click()
    page.get_by_text("Simulated phantoms: these scores mean nothing").first.wait_for()
    page.get_by_role("tab", name="Artifacts").first.click()
    page.get_by_text("report.html", exact=True).first.click()
    report = page.frame_locator("iframe")
    report.get_by_role("heading", name=name).first.wait_for()
    report.locator(".plotly-graph-div svg").first.wait_for()

    page.go_back()
    page.get_by_role("link", name="busi-classifier-phantom", exact=True).first.click()
    page.get_by_text("candidate").first.wait_for()
    page.get_by_text("Simulated phantoms").first.wait_for()
    version = tiny_result.release.version.version
    assert f"/models/busi-classifier-phantom/versions/{version}" in page.url
    assert not elsewhere


def _leaves(url: str) -> bool:
    return not url.startswith((f"http://127.0.0.1:{PORT}/", "data:", "blob:"))
