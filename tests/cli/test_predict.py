"""The command goes on past bad files, names them at the end, and holds few images at once."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from busi_search.cli.actions import predict as predict_action
from busi_search.data.known_images import KnownImages, Membership
from busi_search.data.ledger import ledger_path, read_ledger
from busi_search.data.phantom import simulate_phantom
from busi_search.home import Home, open_home
from busi_search.models import judging
from busi_search.models.out_of_distribution import fit_out_of_distribution_check
from busi_search.models.predict import Classifier
from busi_search.models.seal_watch import SealWatch
from tests.command import call_here, one_sentence
from tests.data.layouts import read
from tests.models.test_seal_watch import SIDE, Brightness


@pytest.fixture(scope="module")
def phantoms() -> np.ndarray:
    return simulate_phantom(60, size_pixels=64, seed=0).images


def model(home: Home, phantoms: np.ndarray) -> Classifier:
    metadata = {
        "class_names": ["dark", "bright"],
        "image_size_pixels": SIDE,
        "simulated": False,
        "positive_class": "bright",
        "weights_sha256": "0",
        "operating_threshold": 0.2,
        "name": "m",
        "version": "3",
    }
    made = Classifier(Brightness(), metadata, "models:/m/3", SealWatch(home, "m", "3"))
    views = np.stack([made.view(image) for image in phantoms])
    made.familiarity = fit_out_of_distribution_check(views)
    return made


@pytest.fixture
def home(tmp_path: Path, phantoms: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose champion calls bright images bright from a fifth on."""
    opened = open_home(tmp_path / "home")
    monkeypatch.setattr(predict_action, "load_champion", lambda home, _uri: model(home, phantoms))
    return opened


@pytest.fixture
def folder(tmp_path: Path, phantoms: np.ndarray) -> Path:
    """Six phantoms, a white page, and two files that are no images."""
    made = tmp_path / "images"
    made.mkdir()
    for index in range(6):
        Image.fromarray(phantoms[index]).save(made / f"{index}.png")
    Image.fromarray(np.full((64, 64), 255, np.uint8)).save(made / "white.png")
    (made / "bad.png").write_bytes(b"no image")
    (made / "empty.png").write_bytes(b"")
    return made


def test_bad_files_are_passed_over_and_named_at_the_end(home: Home, folder: Path) -> None:
    answer = call_here("--home", home.root, "predict", folder)
    assert answer.returncode == 1
    lines = answer.stdout.splitlines()
    assert [Path(line.split("\t")[0]).name for line in lines] == [
        *(f"{index}.png" for index in range(6)), "white.png"
    ]  # fmt: skip
    assert lines[-1].endswith("\tUNLIKE the training images")
    assert lines[-1].split("\t")[1] == "bright"
    last = answer.stderr.splitlines()[-1]
    assert last.startswith("Error: 2 of 9 files could not be classified: ")
    assert "bad.png" in last
    assert "empty.png" in last
    assert "of 7 images are unlike the training images" in answer.stderr
    assert "research use only: m version 3" in answer.stderr
    assert "not evaluated on its sealed test yet" in answer.stderr


def test_json_stays_one_object(home: Home, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "answers.csv"
    words = ("predict", folder, "--json", "--to", target)
    answer = call_here("--home", home.root, *words)
    assert answer.returncode == 1
    found = json.loads(answer.stdout)
    assert [Path(item["path"]).name for item in found["failed"]] == ["bad.png", "empty.png"]
    assert found["num_judged"] == len(found["predictions"]) == 7
    assert found["num_unlike"] >= 1
    assert found["model"]["sealed_test"]["opened"] is False
    white = found["predictions"][-1]
    assert white["out_of_distribution"]["unlike"] is True
    assert (white["verdict"]["positive"], white["verdict"]["threshold"]) == (True, 0.2)
    table = pd.read_csv(target)
    assert list(table["label"]) == [item["label"] for item in found["predictions"]]
    assert table["unlike"].iloc[-1] == 1


def test_pages_that_are_not_judged_are_said(
    home: Home, phantoms: np.ndarray, tmp_path: Path
) -> None:
    pages = [Image.fromarray(image) for image in phantoms[:2]]
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    answer = call_here("--home", home.root, "predict", tmp_path / "pages.tif", "--json")
    assert answer.returncode == 0
    note = "The file has 2 pages or frames; the first was judged."
    assert json.loads(answer.stdout)["predictions"][0]["file_notes"] == [note]
    assert f"pages.tif: {note}" in answer.stderr


def test_one_bad_file_alone_is_wrong_use(home: Home, folder: Path) -> None:
    answer = call_here("--home", home.root, "predict", folder / "bad.png")
    assert answer.returncode == 2
    assert one_sentence(answer)
    answer = call_here("--home", home.root, "predict", folder / "bad.png", "--json")
    assert answer.returncode == 2
    assert list(json.loads(answer.stdout)) == ["error"]
    both = call_here("--home", home.root, "predict", folder / "bad.png", folder / "empty.png")
    assert both.returncode == 1
    assert both.stdout == ""


def test_few_images_are_in_memory_and_an_opening_counts_once(
    home: Home, folder: Path, phantoms: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = tmp_path / "set"
    for index in range(8):
        place = labelled / ("benign" if index < 4 else "malignant")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(phantoms[index]).save(place / f"{index}.png")
    dataset = read(labelled)
    known = KnownImages(home)
    known.add_images(dataset)
    known.add(Membership("study", "p", dataset.fingerprint, (2, 3, 4, 6, 7), (0, 1, 5)))
    monkeypatch.setattr(judging, "LOOKUP_SIZE", 2)
    held: list[int] = []
    find = SealWatch.find

    def watched(self: SealWatch, images: list) -> list:
        held.append(len(images))
        return find(self, images)

    monkeypatch.setattr(SealWatch, "find", watched)
    answer = call_here("--home", home.root, "predict", folder, "--json")
    found = json.loads(answer.stdout)
    assert max(held) == 2
    assert sum(held) == found["num_judged"] == 7
    assert found["num_sealed"] == 3
    entries = read_ledger(ledger_path(home, "study"))
    assert len({entry["opening"] for entry in entries}) == 1
    assert sum(entry["num_images"] for entry in entries) == 3
    # All are read before the first answer where sealed ones are refused.
    answer = call_here("--home", home.root, "predict", folder, "--keep-sealed")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert "3 of 7 images" in answer.stderr
    assert read_ledger(ledger_path(home, "study")) == entries
