"""The file that a container's health check looks at."""

import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from busi_search.search import alive

ROOT = Path(__file__).parents[2]


def _health(file: Path) -> int:
    """Run the health check of the image as it is written there."""
    words = (ROOT / "docker/worker.Dockerfile").read_text().partition("HEALTHCHECK")[2]
    command = json.loads(words.partition("CMD ")[2].splitlines()[0])
    environment = {**os.environ, alive.ALIVE_VARIABLE: str(file)}
    return subprocess.run(command, env=environment, check=False).returncode


def test_the_file_is_there_while_a_search_goes_on_and_old_when_it_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "alive"
    monkeypatch.setenv(alive.ALIVE_VARIABLE, str(file))
    assert _health(file) == 0
    with alive.sign_of_life() as touch:
        assert file.exists()
        assert _health(file) == 0
        hung = time.time() - 3600
        os.utime(file, (hung, hung))
        assert _health(file) != 0
        touch()  # too soon after the last time
        assert file.stat().st_mtime == pytest.approx(hung)
        monkeypatch.setattr(alive, "TOUCH_SECONDS", 0.0)
        touch()
        assert _health(file) == 0
    assert not file.exists()


def test_a_file_that_cannot_be_written_ends_no_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(alive.ALIVE_VARIABLE, str(tmp_path / "missing" / "alive"))
    with alive.sign_of_life() as touch:
        touch()
    monkeypatch.delenv(alive.ALIVE_VARIABLE)
    with alive.sign_of_life() as touch:
        touch()
