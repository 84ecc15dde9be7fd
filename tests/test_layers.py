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


# Module, what it must not import, and the contract that says so.
PLANTED = [
    ("release.replay", "data.sealed", "opens the sealed test"),
    ("report.study_view", "data.sealed", "opens the sealed test"),
    ("serving.app", "data.sealed", "opens the sealed test"),
    ("release.winner", "report.charts", "Data flows one way"),
    ("models.predict", "release.gate", "Data flows one way"),
]


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What import-linter says of a copy of the package that is in order but for what is planted."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(ROOT / "busi_search", folder / "busi_search")
    shutil.copy(ROOT / "pyproject.toml", folder)
    done = lint(folder)
    assert done.returncode == 0, done.stdout
    for module, imported, _ in PLANTED:
        path = folder / "busi_search" / f"{module.replace('.', '/')}.py"
        path.write_text(f"{path.read_text()}\nimport busi_search.{imported}  # planted\n")
    # Once for all: building the graph of imports takes seconds.
    done = lint(folder)
    assert done.returncode == 1, done.stdout
    return done.stdout


@pytest.mark.parametrize(("module", "imported", "contract"), PLANTED)
def test_an_import_against_the_rules_is_noticed(
    said: str, module: str, imported: str, contract: str
) -> None:
    assert any(contract in line and "BROKEN" in line for line in said.splitlines())
    # The contract's own part of what is said, up to the next contract's.
    part = said[said.index("Broken contracts") :].partition(contract)[2]
    for other in {name for *_, name in PLANTED} - {contract}:
        part = part.partition(other)[0]
    assert f"busi_search.{module} -> busi_search.{imported} (" in part
