import json
from pathlib import Path

import pytest

from busi_search.home import open_home
from busi_search.upkeep.doctor import examine
from busi_search.upkeep.finding import Finding
from tests.command import call_here


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of weights, and addresses that nobody answers."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def test_the_list_says_what_is_at_hand_with_size_and_checksum(offline: Path) -> None:
    printed = json.loads(call_here("weights", "list", "--json").stdout)
    assert printed["folder"] == str(offline)
    rows = {row["architecture"]: row for row in printed["weights"]}
    lite = rows["efficientnet_lite0"]
    assert (lite["source"], lite["state"], lite["num_bytes"]) == ("package", "at hand", 18_826_032)
    assert lite["sha256"].startswith("57934424")
    assert (rows["resnet18"]["state"], rows["resnet18"]["sha256"]) == ("absent", "f37072fd")
    text = call_here("weights", "list", "resnet*", "timm/convnextv2_atto").stdout
    assert "absent   resnet18: torchvision, 46.8 MB, SHA-256 f37072fd\n" in text
    assert "timm/convnextv2_atto" in text
    assert "licence cc-by-nc-4.0 (no commercial use)" in text
    assert "lite0" not in text


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["fetch", "timm/resnet18"], 1, "copy the file to"),
        (["fetch", "resnet18"], 1, "resnet18-f37072fd.pth into"),
        (["fetch", "timm/resnet19"], 2, "did you mean 'timm/resnet18'?"),
        (["fetch", "resnet19"], 2, "did you mean 'resnet18'?"),
        (["fetch", "small_cnn"], 2, "no ImageNet weights"),
        (["list", "resnet19"], 2, "did you mean 'resnet18'?"),
        (["check", "timm/nothing*"], 2, "No pretrained weights match"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(words: list[str], code: int, said: str) -> None:
    done = call_here("weights", *words)
    assert done.returncode == code
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_what_is_installed_needs_no_fetching() -> None:
    done = call_here("weights", "fetch", "efficientnet_lite0")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).stat().st_size == 18_826_032


def _about_weights(home: Path) -> list[Finding]:
    return [found for found in examine(open_home(home)) if found.about == "weights"]


def test_a_damaged_file_is_found_by_check_and_by_doctor(offline: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    assert call_here("weights", "check").returncode == 0
    (found,) = _about_weights(home)
    assert found.state == "ok"
    assert "efficientnet_lite0" in found.text
    file = offline / "resnet18-f37072fd.pth"
    file.write_bytes(b"cut off")
    done = call_here("weights", "check", "--json")
    assert done.returncode == 1
    printed = json.loads(done.stdout)
    assert not printed["ok"]
    (row,) = [row for row in printed["weights"] if row["state"] == "damaged"]
    assert f"{file} is damaged" in row["problem"]
    states = {found.state for found in _about_weights(home)}
    assert states == {"ok", "problem"}


def test_a_study_with_a_misspelt_network_ends_before_its_search(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    for name, said in (
        ("timm/resnet19", "did you mean 'timm/resnet18'?"),
        ("timm/", "expected timm/NAME"),
        ("timm/crossvit_tiny_240", "image_size_pixels = 240"),
    ):
        done = call_here(
            "--home", home, "run", "quickstart", "--trials", "1",
            "--set", f"architecture={name}", "--set", "recipes=[]", "--set", "recipe=[]",
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert said in done.stderr
