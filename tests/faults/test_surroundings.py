"""What surrounds a command: proxies, encodings, full disks, names with signs in them."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from busi_search import files
from busi_search.cli import main
from busi_search.cli.base import exit_code_of
from busi_search.cli.global_options import json_text
from busi_search.errors import InputError
from busi_search.files import ensure_temporary_room, utf8
from busi_search.home import open_home, reach_loopback_directly
from busi_search.models.answers import Prediction, csv_line, csv_row
from busi_search.models.asked_files import find_images
from busi_search.models.loading import _parse_uri
from busi_search.models.registry import named
from busi_search.study_files import load_spec

LATIN1 = os.fsdecode(b"t\xfcmor.png")


def test_loopback_never_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "corp.example")
    monkeypatch.setenv("no_proxy", "")
    reach_loopback_directly()
    reach_loopback_directly()
    assert os.environ["NO_PROXY"] == "corp.example,localhost,127.0.0.1,::1"
    assert os.environ["no_proxy"] == "localhost,127.0.0.1,::1"


def test_a_full_temporary_folder_is_left_for_the_homes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    monkeypatch.setattr(files.tempfile, "tempdir", str(full))
    monkeypatch.setenv("TMPDIR", str(full))
    real = shutil.disk_usage

    def disk_usage(folder: str | Path) -> SimpleNamespace:
        free = 1000 if str(folder).startswith(str(full)) else real(folder).free
        return SimpleNamespace(free=free)

    monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
    ensure_temporary_room(tmp_path / "home" / "cache" / "tmp")
    assert files.tempfile.gettempdir() == os.environ["TMPDIR"]
    assert files.tempfile.gettempdir() == str(tmp_path / "home" / "cache" / "tmp")


def test_output_in_another_encoding_ends_no_command(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "from busi_search.cli import command; command()"]
    line += ["--home", str(tmp_path / "home"), "explain", "learning_rate"]
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    ended = subprocess.run(line, env=environment, capture_output=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert b"learning_rate" in ended.stdout


def test_a_latin1_name_is_written_as_utf8() -> None:
    answer = Prediction(LATIN1, "benign", {"benign": 0.5, "malignant": 0.5})
    table = utf8(csv_line(csv_row(answer).values())).decode("utf-8")
    assert "t\\xfcmor.png" in table
    assert json.loads(json_text({"path": LATIN1}).encode("utf-8"))["path"] == LATIN1


def test_what_systems_put_beside_images_is_no_image(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    for name in ("._a.png", ".DS_Store", "Thumbs.db", "._b.jpg"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert find_images([tmp_path]) == [tmp_path / "a.png"]


@pytest.mark.parametrize("name", ["a?b", "a%20b"])
def test_a_home_that_no_address_can_hold_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="in its path"):
        open_home(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_names_with_quotation_marks_are_looked_up() -> None:
    assert named("o'b") == 'name = "o\'b"'
    assert named('o"b') == "name = 'o\"b'"
    with pytest.raises(InputError):
        named("o'\"b")
    assert _parse_uri("models:/o@b/3") == ("o@b", "3")
    assert _parse_uri("models:/o'b@champion") == ("o'b", "champion")


def test_models_of_a_name_with_a_quotation_mark(tmp_path: Path, home: object) -> None:
    root = str(home.root)  # type: ignore[attr-defined]
    assert exit_code_of(main, ["--home", root, "models", "--model", "o'b"]) == 0


@pytest.mark.parametrize(
    "words", [["status", "none"], ["predict"], ["run", "--set", "epochs=x"], ["nothing"]]
)
def test_errors_are_json_where_json_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    code = exit_code_of(main, ["--home", str(tmp_path / "h"), *words, "--json"])
    out, err = capsys.readouterr()
    assert code == 2
    assert set(json.loads(out)) == {"error"}
    assert json.loads(out)["error"] in " ".join(err.split()) or "Usage" in err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("dataset.test=0.0", 'expected "official" or number above 0, at most 0.5'),
        ("dataset.test='x'", 'expected "official" or number above 0, at most 0.5'),
        ("space.dropout={low='a',high=1}", "low = 'a': expected a number"),
        ("recipe=[{epochs=[1]}]", "expected true or false or a number or text"),
    ],
)
def test_errors_of_unions_name_all_that_is_allowed(override: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        load_spec("quickstart", (override,))
    assert expected in str(caught.value)
