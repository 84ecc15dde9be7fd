"""What a notebook shows: a result, a study, a bar that is rewritten in place."""

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import busi_search as bs
from busi_search.data.progress import counted
from busi_search.report import notebook
from busi_search.report.study_result import StudyResult


class _Handle:
    def __init__(self, pages: list[str]) -> None:
        self._pages = pages

    def update(self, page: Any) -> None:
        self._pages.append(page)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every state of the output of a cell, of a Jupyter that is not there."""
    shown: list[str] = []

    def display(page: str, *, display_id: bool) -> _Handle:
        assert display_id
        shown.append(page)
        return _Handle(shown)

    shell, module = ModuleType("IPython"), ModuleType("IPython.display")
    shell.get_ipython = lambda: SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    module.HTML = str  # type: ignore[attr-defined]
    module.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    return shown


def test_a_cell_shows_how_far_a_search_has_come(pages: list[str], tiny_result: StudyResult) -> None:
    progress = replace(tiny_result.progress, remaining_seconds=65.0)
    with notebook.notebook_progress(10, shown=True) as bar:
        assert bar is not None
        bar.update(progress)
        list(counted(range(2), "training the winner again", 2))
        bar.ended(125.0)
    assert "starting workers" in pages[0]
    assert f'max="{progress.target}" value="{progress.finished}"' in pages[1]
    assert "1:05 left" in pages[1]
    assert "training the winner again: 1 of 2" in pages[3]
    assert "done in 2:05" in pages[-1]


def test_a_script_shows_nothing(pages: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with notebook.notebook_progress(10, shown=False) as bar:
        assert bar is None
    monkeypatch.delitem(sys.modules, "IPython")
    with notebook.notebook_progress(10, shown=True) as bar:
        assert bar is None
    assert pages == []


def test_a_result_and_its_study_are_tables(tiny_result: StudyResult) -> None:
    page = tiny_result._repr_html_()
    release = tiny_result.release
    assert release is not None
    for name, estimate in release.estimates.items():
        row = next(line for line in page.splitlines() if f">cv_{name}<" in line)
        assert f">{estimate.value:.3f}<" in row or "–" in row
    assert f"version {release.version.version}" in page
    assert "SIMULATED" in page
    study = bs.load_study(tiny_result.context.name, home=tiny_result.context.home)
    shown = study._repr_html_()
    assert f"Study {study.name}" in shown
    assert f"cv_auc {study.best.value:.3f}" in shown
    assert ">cv_auc<" in study.best._repr_html_()
    for name in study.best.params:
        assert f">{name}<" in shown


def test_names_are_escaped_and_a_study_without_a_winner_says_so(tiny_result: StudyResult) -> None:
    context = replace(tiny_result.context, name="<b>a & b</b>")
    page = replace(tiny_result, context=context, release=None)._repr_html_()
    assert "<b>" not in page
    assert "&lt;b&gt;a &amp; b" in page
    assert "run the same call again" in page
