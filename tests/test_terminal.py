from dataclasses import replace

import pytest

from busi_search import terminal
from busi_search.release.run import StudyResult
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
    beside = len("1000/1000") + 6 + 2
    assert len(terminal._status(progress)) + beside <= 80


def test_the_last_lines_fit_80_columns_and_say_what_to_type(
    tiny_result: StudyResult, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show_result(tiny_result)
    lines = capsys.readouterr().err.splitlines()
    assert max(len(line.rstrip()) for line in lines) <= 80
    for words in ("busi-search ui", "busi-search promote --force", "busi-search predict"):
        assert any(words in line for line in lines)
