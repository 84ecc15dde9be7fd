import copy
import re
from dataclasses import replace

import pytest
from rich.console import Console

from busi_search import terminal
from busi_search.run import StudyResult
from busi_search.search.store.records import PRUNE_REASON
from busi_search.terminal import duration


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "–"), (0.4, "0:00"), (65, "1:05"), (3725, "1:02:05")]
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_status_line_fits_80_columns(tiny_result: StudyResult) -> None:
    progress = replace(
        tiny_result.progress, folds_trained=9999, folds_saved=999, pruned=999, failed=0,
        remaining_seconds=3725.0,
    )  # fmt: skip
    beside = len("1000/1000") + 5 + 2
    assert len(terminal._status(progress)) + beside <= 80


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
    pruned.number, pruned.user_attrs[PRUNE_REASON] = 77, "after 2 fold(s) [-0.1 ± 0.02] " * 9
    progress = replace(tiny_result.progress, workers=2, trials=[best, pruned])
    shown = Console(stderr=True, force_terminal=True, width=80, highlight=False)
    monkeypatch.setattr(terminal, "err", shown)
    with terminal.search_display(10, quiet=False) as display:
        display.update(progress)
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", capsys.readouterr().err).splitlines()
    assert any(f"best {best.value:.3f}±" in line for line in lines)
    (below,) = {line.strip() for line in lines if "leads" in line}
    assert below.startswith(f"2 worker(s) · trial {best.number} leads · 77 pruned: after 2")
    assert "[-0.1 ± 0.02]" in below
    assert max(len(line.rstrip()) for line in lines) <= 80
