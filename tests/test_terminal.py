import copy
import re
from dataclasses import replace

import pytest
from rich.console import Console

from busi_search import terminal
from busi_search.data.progress import counted
from busi_search.report.study_result import StudyResult
from busi_search.search.progress_line import status_line
from busi_search.search.store.records import PRUNE_REASON
from busi_search.wording import duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0:00"), (65, "1:05"), (3725, "1:02:05")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize("columns", [24, 40, 60, 80, 120])
def test_the_status_line_fits_the_room_there_is(tiny_result: StudyResult, columns: int) -> None:
    progress = replace(
        tiny_result.progress, folds_trained=9999, folds_saved=999, pruned=999, failed=3,
        remaining_seconds=3725.0,
    )  # fmt: skip
    line = status_line(progress, columns)
    assert len(line) <= columns
    assert line.startswith("best 0.")
    if columns >= 40:
        assert line.endswith("1:02:05 left")
    assert ("3 failed" in line) == (columns >= 60)
    assert ("9,999 folds (999 saved)" in line) == (columns >= 120)


def test_the_line_names_the_phase_and_one_is_one(tiny_result: StudyResult) -> None:
    progress = replace(
        tiny_result.progress, folds_trained=1, folds_saved=0, pruned=0, best=None,
        phase="storing features", phase_share=0.4, remaining_seconds=None,
    )  # fmt: skip
    assert status_line(progress, 80) == "best – · 1 fold · storing features 40 %"
    assert status_line(replace(progress, phase_share=None, phase="searching"), 80) == (
        "best – · 1 fold · searching"
    )


@pytest.mark.parametrize("width", [40, 80, 120])
def test_the_bar_uses_the_width_there_is(
    tiny_result: StudyResult,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    width: int,
) -> None:
    shown = Console(stderr=True, force_terminal=True, width=width, highlight=False)
    monkeypatch.setattr(terminal, "err", shown)
    progress = replace(tiny_result.progress, workers=1, remaining_seconds=75.0)
    with terminal.search_display(10, quiet=False) as display:
        display.update(progress)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).splitlines()
    rows = [line.rstrip() for line in lines if "1:15 left" in line]
    assert rows
    assert all(len(line.rstrip()) <= width for line in lines)
    bars = [len(re.findall("[━╸╺]", row)) for row in rows]
    room = width - len(re.sub("[━╸╺]", "", rows[-1]))
    assert min(bars) >= 5
    assert abs(bars[-1] - min(terminal.LONGEST_BAR, room)) <= 2


def test_what_follows_the_search_is_named(
    capsys: pytest.CaptureFixture[str], tiny_result: StudyResult
) -> None:
    with terminal.search_display(4, quiet=False) as display:
        display.update(replace(tiny_result.progress, remaining_seconds=90.0))
        list(counted(range(3), "training the winner again", 3))
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("training the winner again: 0 of 3 · 1:") for line in lines)


def test_the_last_lines_fit_80_columns_and_say_what_to_type(
    tiny_result: StudyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show_result(tiny_result)
    lines = capsys.readouterr().err.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    for words in ("busi-search ui", "busi-search promote --force", "busi-search predict"):
        assert any(words in line for line in lines)


def test_in_a_container_the_next_lines_are_those_of_its_engine(
    tiny_result: StudyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show_result(
        tiny_result, command="docker compose run --rm search", pages="http://127.0.0.1:5000"
    )
    said = capsys.readouterr().err
    assert "  docker compose run --rm search promote --force" in said
    assert "  docker compose run --rm search predict /data/IMAGE.png" in said
    assert "  http://127.0.0.1:5000" in said
    assert "  busi-search " not in said


def test_below_the_bar_stands_who_leads_and_why_a_trial_was_given_up(
    tiny_result: StudyResult, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tiny_result.progress.best
    assert best is not None
    pruned = copy.deepcopy(best)
    pruned.number, pruned.user_attrs[PRUNE_REASON] = 77, "after 2 folds [-0.1 ± 0.02] " * 9
    progress = replace(tiny_result.progress, workers=2, trials=[best, pruned])
    shown = Console(stderr=True, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(terminal, "err", shown)
    with terminal.search_display(10, quiet=False) as display:
        display.update(progress)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).splitlines()
    assert any(f"best {best.value:.3f} ± " in line for line in lines)
    (below,) = {line.strip() for line in lines if "leads" in line}
    assert below.startswith(
        f"2 workers · trial {best.number} leads · trial 77 stopped early: after"
    )
    assert max(len(line.rstrip()) for line in lines) <= 80
