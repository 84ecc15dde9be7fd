import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

from busi_search.cli import main
from tests.command import BUSI_SEARCH, call, call_here
from tests.conftest import TINY
from tests.ports import free_port


def _commands(group: click.Group = main, prefix: str = "") -> list[tuple[str, click.Command]]:
    found: list[tuple[str, click.Command]] = []
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found.append((prefix + name, command))
        if isinstance(command, click.Group):
            found += _commands(command, f"{prefix}{name} ")
    return found


@pytest.mark.parametrize("name", [name for name, _ in _commands()])
def test_every_command_has_help_with_an_example(name: str) -> None:
    command = dict(_commands())[name]
    assert command.help
    assert not command.get_short_help_str(60).endswith("..."), "cut off in the list of commands"
    if not isinstance(command, click.Group):
        assert f"busi-search {name}" in command.help.split("Example:")[1]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and parameter.name not in ("num_images", "seed"):
            assert parameter.help, f"{name} --{parameter.name} has no help"


def test_help_is_instant() -> None:
    """Nothing heavy is imported before a command needs it."""
    code = (
        "import sys\nfrom busi_search.cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'mlflow', 'optuna', 'sklearn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "quikstart"], "quickstart"),
        (["run", "--data", "absent.zip"], "absent.zip"),
        (["run", "busi", "--data", "absent", "--weights", "none"], "absent"),
        (["run", "breastmnist", "--data", "absent.npz"], "absent.npz"),
        (["run", "breastmnist"], "breastmnist.npz"),
        (["run", "quickstart", "--data", "x.npz"], "simulates its own"),
        (["run", "--set", "epoch=3"], "epochs"),
        (["run", "--device", "cuda:9"], "--device cpu"),
        (["run", "--device", "gpu"], "cuda:K"),
        (["run", "--trials", "0"], "trials"),
        (["run", "--weights", "absent.pth"], "absent.pth"),
        (["run", "--name", "a/b"], "--name"),
        (["run", "--no-such-option"], "no-such-option"),
        (["status", "absent"], "absent"),
        (["promote"], "busi-search run"),
        (["rollback"], "previous"),
        (["promote", "--force"], "--reason"),
        (["predict", "absent.png"], "absent.png"),
        (["report", "absent", "--to", "x.html"], "absent"),
        (["data", "check", "absent"], "absent"),
        (["data", "phantom", "--to", "p", "--num-images", "3"], "30"),
        (["ui"], "busi-search run"),
    ],
)
def test_wrong_use_gives_one_sentence_and_exit_code_2(
    words: list[str], sentence: str, tmp_path: Path
) -> None:
    done = call_here("--home", tmp_path / "home", *words, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    done = call_here("--debug", "--home", tmp_path / "home", "status", "absent")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_damaged_images_are_named_before_the_search(busi_folder: Path, tmp_path: Path) -> None:
    broken = busi_folder / "Dataset_BUSI_with_GT" / "normal" / "normal (3).png"
    broken.write_bytes(broken.read_bytes()[:90])
    words = ["run", "busi", "--data", busi_folder, "--weights", "none"]
    done = call_here("--home", tmp_path / "home", *words)
    assert done.returncode == 2
    assert "normal (3).png" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "home" / "optuna.db").exists()


def test_data_phantom_and_check_speak_of_the_same_images(tmp_path: Path) -> None:
    home = ["--home", tmp_path / "home"]
    words = ["--to", tmp_path / "p", "--num-images", 100, "--size", 64]
    assert call_here(*home, "data", "phantom", *words).returncode == 0
    assert call_here(*home, "data", "phantom", *words).returncode == 2
    done = call_here(*home, "data", "check", tmp_path / "p", "--json")
    found = json.loads(done.stdout)
    assert found["num_images"] == 100
    assert set(found["classes"]) == {"benign", "malignant", "normal"}
    assert found["groups"]
    assert all(len(group) > 1 for group in found["groups"])
    assert 1 <= len(found["conflicts"]) <= len(found["groups"])
    page = tmp_path / "data.html"
    assert call_here(*home, "data", "describe", tmp_path / "p", "--to", page).returncode == 0
    text = page.read_text()
    assert text.count("<img") >= sum(map(len, found["groups"]))
    assert all(path in text for group in found["groups"] for path in group)
    assert call_here(*home, "data", "describe", tmp_path / "p", "--to", tmp_path).returncode == 2
    for path in found["groups"][0]:
        assert (tmp_path / "p" / "Dataset_BUSI_with_GT" / path).is_file()


@pytest.mark.slow
def test_from_a_folder_of_images_to_a_prediction(busi_folder: Path, tmp_path: Path) -> None:
    """The main job as a user does it, with worker processes, on files."""
    home = ["--home", tmp_path / "home"]
    words = ["run", "--data", busi_folder, "--weights", "none", "--trials", 3, "--workers", 2]
    words += ["--set", "epochs=4", "--set", "learning_rate=0.01", "--set", "num_folds=3",
              "--set", "architecture='small_cnn'", "--set", "image_size_pixels=28",
              "--set", "test=0.4"]  # fmt: skip
    done = call(*home, *words, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["study"] == "busi"
    assert result["trials"]["complete"] + result["trials"]["pruned"] == 3
    assert result["dataset"]["num_images"] == 37
    assert result["model"] == {"name": "busi-classifier", "version": "1", "alias": "candidate"}
    assert set(result["corrected"]) == {"cv_auc", "ci95", "metrics"}
    cost = result["cost"]
    assert cost["fold_trainings"] >= 3
    assert cost["epochs"] <= 4 * cost["fold_trainings"]
    for line in ("busi-search ui", "busi-search promote", "busi-search predict"):
        assert line in done.stderr
    assert "SIMULATED" not in done.stderr

    again = call_here(*home, *words, "--json")
    assert json.loads(again.stdout) == result
    assert "is complete" in again.stderr

    image = busi_folder / "Dataset_BUSI_with_GT" / "benign" / "benign (1).png"
    assert call_here(*home, "predict", image).returncode == 2  # no champion yet
    # Four epochs on 37 images: what it scores is near chance's, so the floor is taken away.
    refused = call_here(*home, "promote", "--min-auc", "1", "--json")
    assert refused.returncode == 3
    asked = json.loads(refused.stdout)
    assert asked["decision"] == "refused"
    assert asked["evidence"]["openings"] == 1
    no_floor = ("--min-auc", "0", "--min-sensitivity", "0")
    promoted = json.loads(call_here(*home, "promote", *no_floor, "--json").stdout)
    assert promoted["decision"] == "promoted", promoted["reasons"]
    assert promoted["evidence"]["best_champion"] is None
    assert promoted["notes"]
    answer = json.loads(call_here(*home, "predict", image, "--json").stdout)
    (prediction,) = answer["predictions"]
    assert answer["model"]["version"] == "1"
    assert prediction["path"] == str(image)
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    assert prediction["most_likely"] == max(
        prediction["probabilities"], key=prediction["probabilities"].get
    )
    assert prediction["label"] == prediction["verdict"]["label"]
    assert answer["model"]["sealed_test"]["opened"]
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"")
    assert call_here(*home, "predict", bad).returncode == 2
    assert "busi: " in call_here(*home, "studies").stdout
    assert call_here(*home, "models").stdout.startswith("busi-classifier 1 (candidate, champion)")
    assert call_here(*home, "report", "busi", "--to", tmp_path / "r.html").returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_search_says_how_to_resume_and_resumes(
    signal_number: signal.Signals, tmp_path: Path
) -> None:
    options = [word for override in TINY for word in ("--set", override)]
    words = ["--home", str(tmp_path / "home"), "run", "--trials", "40", *options]
    words += ["--set", "epochs=12"]
    process = subprocess.Popen(
        [*BUSI_SEARCH, *words], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 600
    while True:
        assert time.monotonic() < deadline, "no trial was finished"
        status = call_here("--home", tmp_path / "home", "status", "quickstart-phantom", "--json")
        if status.returncode == 0 and json.loads(status.stdout)["states"]["complete"] >= 1:
            break
        time.sleep(0.5)
    process.send_signal(signal_number)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 130, stderr
    last = stderr.strip().splitlines()[-1]
    assert "Resume: busi-search" in last
    assert "Traceback" not in stderr
    status = json.loads(
        call_here("--home", tmp_path / "home", "status", "quickstart-phantom", "--json").stdout
    )
    assert status["states"]["running"] == 0
    finished = status["states"]["complete"] + status["states"]["pruned"]
    # It did not search on to the end after the signal.
    assert finished < 40
    words[words.index("40")] = str(finished + 1)
    done = call(*words, "--json")
    assert done.returncode == 0, done.stderr
    trials = json.loads(done.stdout)["trials"]
    assert trials["complete"] + trials["pruned"] == finished + 1


@pytest.mark.slow
def test_the_ui_serves_the_leaderboard(tiny_result: object, tmp_path: Path) -> None:
    home, port = tiny_result.context.home.root, str(free_port())
    process = subprocess.Popen(
        [*BUSI_SEARCH, "--home", str(home), "ui", "--port", port, "--no-browser"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        line = process.stdout.readline().strip()
        assert line.startswith(f"http://127.0.0.1:{port}/#/experiments/")
        taken = call_here("--home", home, "ui", "--port", port, "--no-browser")
        assert taken.returncode == 2
        assert "--port" in taken.stderr
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    assert process.returncode == 130
    # MLflow's server has ended too, with the processes that it had started.
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", int(port))) != 0


@pytest.mark.slow
def test_real_images_are_accepted(real_data: Path, tmp_path: Path) -> None:
    home = ["--home", tmp_path / "home"]
    common = ["--trials", 1, "--set", "epochs=1", "--set", "architecture='small_cnn'", "--json"]
    common += ["--quiet", "--set", "image_size_pixels=32", "--weights", "none"]
    common += ["--set", "recipes=[]", "--set", "recipe=[]"]
    busi = ["run", "busi", "--data", real_data / "busi", *common]
    result = json.loads(call_here(*home, *busi).stdout)
    assert result["dataset"]["num_images"] == 624
    assert result["dataset"]["num_conflicts"] >= 5
    medmnist = ["run", "breastmnist", "--data", real_data / "breastmnist.npz", *common]
    with np.load(real_data / "breastmnist.npz") as arrays:
        num_test = len(arrays["test_labels"])
    result = json.loads(call_here(*home, *medmnist).stdout)
    found = result["dataset"]
    assert found["num_test"] + found["num_test_quarantined"] == num_test


def test_an_image_can_be_any_mode(tmp_path: Path) -> None:
    Image.new("RGBA", (30, 30)).save(tmp_path / "a.png")
    done = call_here("--home", os.fspath(tmp_path / "home"), "predict", tmp_path / "a.png")
    assert done.returncode == 2
    assert "registered" in done.stderr
