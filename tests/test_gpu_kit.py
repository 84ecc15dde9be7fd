"""The kit for a GPU, dry on the CPU: every stage runs, and what fails stops nothing."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu  # noqa: E402
import gpu_pack  # noqa: E402


def _run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> dict[str, Any]:
    target = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--dry", "--to", str(target), *words])
    gpu.main()
    stages = json.loads(target.read_text())["stages"]
    assert isinstance(stages, dict)
    return stages


def test_the_cheap_stages_run_and_say_what_they_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = _run(tmp_path, monkeypatch, "--only", "a,f,h,i")
    assert {name[0] for name in stages} == set("afhi")
    # CPU against CPU, and a training repeated on it: not a bit may differ.
    assert stages["a equality"]["max_difference"] == 0
    assert stages["i repeated"]["deterministic"]["max_difference"] == 0
    limited = stages["f out of memory"]
    assert limited["piece_that_fitted"] <= limited["batch"] // 4
    assert limited["relative_gradient_difference"] < 1e-5
    assert stages["h augmentation"]["cpu_milliseconds"] > 0


def test_a_stage_that_fails_stands_in_the_file_and_the_next_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(_: object) -> dict[str, Any]:
        raise RuntimeError("CUDA error: an illegal memory access")

    monkeypatch.setitem(gpu.STAGES, "a equality", (breaks, 5))
    stages = _run(tmp_path, monkeypatch, "--only", "a,h")
    assert "illegal memory access" in stages["a equality"]["error"]
    assert "error" not in stages["h augmentation"]
    stages = _run(tmp_path, monkeypatch, "--only", "h", "--seconds", "1")
    assert stages["h augmentation"] == {"left_out": "no time was left"}


def test_what_is_packed_unpacks_to_a_kit_that_finds_its_package(tmp_path: Path) -> None:
    assert gpu_pack.pack([], tmp_path / "kit.tar") == 0
    with tarfile.open(tmp_path / "kit.tar") as archive:
        names = archive.getnames()
        archive.extractall(tmp_path, filter="data")
    assert not any("__pycache__" in name for name in names)
    done = subprocess.run(
        [sys.executable, "gpu-kit/gpu.py", "--dry", "--only", "h", "--to", "found.json"],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "error" not in json.loads((tmp_path / "found.json").read_text())["stages"]["h augmentation"]
    )


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_stage_runs_without_what_is_not_carried(tmp_path: Path) -> None:
    blocked = (
        "import runpy, sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('mlflow', 'pandas', 'pyarrow', 'plotly', 'starlette'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        "sys.argv = ['gpu.py', '--dry', '--to', 'found.json']\n"
        f"runpy.run_path({str(ROOT / 'benchmarks/gpu.py')!r}, run_name='__main__')\n"
    )
    (tmp_path / "blocked.py").write_text("if __name__ == '__main__':\n" + "".join(
        f"    {line}\n" for line in blocked.splitlines()
    ))  # fmt: skip
    done = subprocess.run(
        [sys.executable, "blocked.py"], cwd=tmp_path, capture_output=True, text=True,
        check=False, timeout=3700,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    stages = json.loads((tmp_path / "found.json").read_text())["stages"]
    assert {name[0] for name in stages} == set("abcdefghij")
    assert not [stage for stage in stages.values() if "error" in stage]
    killed, study = stages["g killed"], stages["j study"]
    assert killed["killed"] == 1
    assert killed["folds_kept"]
    assert killed["finished"] == killed["wanted"]
    assert study["finished"] == gpu.DRY.study_trials
