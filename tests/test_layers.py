"""The layers of the package, and that breaking one of them is noticed."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    code = "from importlinter.cli import lint_imports_command as c; c(['--no-cache'])"
    return subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=folder,
        env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"},
    )


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "busi_search", folder / "busi_search")
    shutil.copy(ROOT / "pyproject.toml", folder)
    done = lint(folder)
    assert done.returncode == 0, done.stdout
    return folder


@pytest.mark.parametrize(
    ("module", "planted", "broken"),
    [
        ("release/replay.py", "busi_search.data.sealed", "opens the sealed test"),
        ("report/study_view.py", "busi_search.data.sealed", "opens the sealed test"),
        ("serving/app.py", "busi_search.data.sealed", "opens the sealed test"),
        ("release/winner.py", "busi_search.report.charts", "Data flows one way"),
        ("models/predict.py", "busi_search.release.gate", "Data flows one way"),
    ],
)
def test_an_import_against_the_rules_is_noticed(
    copy: Path, module: str, planted: str, broken: str
) -> None:
    path = copy / "busi_search" / module
    kept = path.read_text()
    try:
        path.write_text(f"{kept}\nimport {planted}  # planted\n")
        done = lint(copy)
    finally:
        path.write_text(kept)
    assert done.returncode == 1, done.stdout
    assert any(broken in line and "BROKEN" in line for line in done.stdout.splitlines())
