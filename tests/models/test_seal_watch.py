import json
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from busi_search.cli.actions import predict as predict_action
from busi_search.data.known_images import KnownImages, Membership
from busi_search.data.ledger import ledger_path, read_ledger
from busi_search.errors import InputError
from busi_search.home import Home, open_home
from busi_search.models.predict import Classifier
from busi_search.models.seal_watch import SealedImageWarning, SealWatch
from busi_search.search.seal_register import append_to_ledger, num_openings_of
from busi_search.serving.verdict import judge_image
from tests.command import call_here
from tests.data.layouts import read
from tests.data.test_duplicates import jpeg, make_scan, resize

SIDE = 32


class Brightness(torch.nn.Module):
    """Two classes by the mean grey level."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        share = pixels.mean((1, 2, 3)) / 255
        return torch.stack([1 - share, share], 1)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    for index in range(8):
        place = root / ("benign" if index < 4 else "malignant")
        place.mkdir(exist_ok=True)
        Image.fromarray(make_scan(index + 1)).save(place / f"{index}.png")
    return root


@pytest.fixture
def watched(tmp_path: Path, images: Path) -> Home:
    """A home with three studies of the same images: 0 and 4 sealed, 0 and 5 sealed, 1 sealed."""
    home = open_home(tmp_path / "home")
    known = KnownImages(home)
    dataset = read(images)
    known.add_images(dataset)
    for study, sealed in (("first", (0, 4)), ("second", (0, 5)), ("third", (1,))):
        rest = tuple(sorted(set(range(8)) - set(sealed)))
        known.add(Membership(study, f"of {study}", dataset.fingerprint, rest, sealed))
    return home


def model(home: Home) -> Classifier:
    metadata = {
        "class_names": ["dark", "bright"],
        "image_size_pixels": SIDE,
        "simulated": False,
        "positive_class": "bright",
        "weights_sha256": "0",
        "operating_threshold": 0.5,
        "name": "m",
        "version": "3",
    }
    return Classifier(Brightness(), metadata, "models:/m/3", SealWatch(home, "m", "3"))


def openings(home: Home) -> dict[str, list[dict]]:
    return {name: read_ledger(ledger_path(home, name)) for name in ("first", "second", "third")}


def member(home: Home, study: str) -> Membership:
    return next(m for m in KnownImages(home).memberships if m.study == study)


def count(home: Home, study: str) -> int:
    return num_openings_of(KnownImages(home), member(home, study), home)


def test_a_sealed_image_opens_the_test_whatever_it_is_called(watched: Home, tmp_path: Path) -> None:
    copy = tmp_path / "holiday.jpg"
    Image.fromarray(jpeg(resize(make_scan(1), 300, 300), 80)).save(copy)
    with pytest.warns(SealedImageWarning, match=r"1 of 1 image.*'first', 'second'"):
        (answer,) = model(watched).predict(copy)
    assert answer.sealed_by == ("first", "second")
    found = openings(watched)
    assert [len(entries) for entries in found.values()] == [1, 1, 0]
    (entry,) = found["first"]
    assert entry["kind"] == "opened"
    assert (entry["how"], entry["model"], entry["version"]) == ("python", "m", "3")
    assert entry["num_images"] == 1
    assert entry["opening"] == found["second"][0]["opening"]
    # One act counts once, also where two studies sealed the image.
    assert [count(watched, study) for study in ("first", "second", "third")] == [1, 1, 0]


def test_openings_count_by_content_across_studies(watched: Home) -> None:
    """All of one test was opened: that of the study that shares an image too, and no other."""
    append_to_ledger(watched, "first", "opened", {"partition": "of first"})
    append_to_ledger(watched, "first", "figures", {"partition": "of first"})
    assert [count(watched, study) for study in ("first", "second", "third")] == [1, 1, 0]
    # Number 4 belongs to the first alone.
    model(watched).predict_pixels(np.stack([resize(make_scan(5), SIDE, SIDE)]))
    assert [count(watched, study) for study in ("first", "second", "third")] == [2, 1, 0]
    renamed = Membership(**{**vars(member(watched, "first")), "study": "renamed"})
    assert num_openings_of(KnownImages(watched), renamed, watched) == 2


@pytest.mark.filterwarnings("error")
def test_other_images_are_answered_as_before(watched: Home, tmp_path: Path, images: Path) -> None:
    Image.fromarray(make_scan(99)).save(tmp_path / "new.png")
    asked = model(watched)
    answers = asked.predict([tmp_path / "new.png", images / "malignant" / "7.png"])
    assert [answer.sealed_by for answer in answers] == [(), ()]
    assert asked.predict_pixels(np.full((1, SIDE, SIDE), 255, np.uint8))[0, 1] == 1
    assert openings(watched) == {"first": [], "second": [], "third": []}


def test_a_home_without_studies_seals_nothing(tmp_path: Path, images: Path) -> None:
    (answer,) = model(open_home(tmp_path / "empty")).predict(images / "benign" / "0.png")
    assert answer.sealed_by == ()


@pytest.mark.filterwarnings("error")
def test_keep_sealed_refuses_all_and_counts_nothing(watched: Home, images: Path) -> None:
    asked = model(watched)
    for ask in (
        lambda: asked.predict(images, keep_sealed=True),
        lambda: asked.predict_pixels(resize(make_scan(2), SIDE, SIDE)[None], keep_sealed=True),
    ):
        with pytest.raises(InputError, match=r"sealed test of stud(y|ies) "):
            ask()
    assert openings(watched) == {"first": [], "second": [], "third": []}
    assert len(asked.predict(images / "malignant" / "7.png", keep_sealed=True)) == 1


def test_a_study_that_begins_later_is_seen(watched: Home, images: Path) -> None:
    asked = model(watched)
    assert asked.predict(images / "malignant" / "7.png")[0].sealed_by == ()
    fingerprint = read(images).fingerprint
    KnownImages(watched).add(Membership("late", "p", fingerprint, (0,), (7,)))
    with pytest.warns(SealedImageWarning):
        assert asked.predict(images / "malignant" / "7.png")[0].sealed_by == ("late",)


def test_the_command_says_it_and_refuses(
    watched: Home, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict_action, "load_champion", lambda home, _uri: model(home))
    sealed, other = images / "benign" / "1.png", images / "malignant" / "7.png"
    answer = call_here("--home", watched.root, "predict", sealed, other, "--json")
    printed = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert printed["num_sealed"] == 1
    assert [item["sealed_by"] for item in printed["predictions"]] == [["third"], []]
    assert "1 of 2 images belongs to the sealed test of study 'third'" in answer.stderr
    assert "Warning" not in answer.stderr
    assert openings(watched)["third"][0]["how"] == "predict"
    target = tmp_path / "answers.csv"
    words = ("predict", other, sealed, "--keep-sealed", "--to", target)
    answer = call_here("--home", watched.root, *words)
    assert answer.returncode == 2
    assert str(sealed) in answer.stderr
    assert answer.stdout == ""
    assert not target.exists()
    assert len(openings(watched)["third"]) == 1
    answer = call_here("--home", watched.root, "predict", other, "--keep-sealed")
    assert answer.returncode == 0
    assert "belong to the sealed test" not in answer.stderr


def test_the_page_says_it_and_refuses(watched: Home) -> None:
    def png(index: int) -> bytes:
        buffer = BytesIO()
        Image.fromarray(make_scan(index + 1)).save(buffer, "PNG")
        return buffer.getvalue()

    asked = model(watched)
    answer = judge_image(asked, png(1), explain=True)
    assert answer["sealed"]["studies"] == ["third"]
    assert "this opening was counted" in answer["sealed"]["text"]
    # What the answer hangs on takes fifty more predictions of the same image.
    assert [entry["how"] for entry in openings(watched)["third"]] == ["serve"]
    with pytest.raises(InputError, match="sealed test of study 'third'"):
        judge_image(asked, png(1), explain=False, keep_sealed=True)
    answer = judge_image(asked, png(7), explain=False, keep_sealed=True)
    assert answer["sealed"] == {"studies": [], "text": None}
    assert len(openings(watched)["third"]) == 1
