"""Images that stand in two sets are found, also shrunken; what a set is made of is counted."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.subgroups import find_subgroups, images_per_patient
from tests.command import call_here, one_sentence
from tests.data import layouts
from tests.data.layouts import read


def _scan(rng: np.random.Generator) -> Image.Image:
    """A picture with speckle of its own, as a scan has."""
    coarse = rng.normal(size=(20, 20))
    shapes = np.asarray(Image.fromarray(coarse).resize((240, 240), Image.Resampling.BICUBIC))
    fine = rng.normal(size=(60, 60))
    speckle = np.asarray(Image.fromarray(fine).resize((240, 240), Image.Resampling.BICUBIC))
    return Image.fromarray((110 + 45 * shapes + 25 * speckle).clip(0, 255).astype(np.uint8))


@pytest.fixture
def two_sets(tmp_path: Path) -> tuple[Path, Path]:
    """Four of the second set's eight images are the first's: shrunken, cut, and as they are."""
    rng = np.random.default_rng(0)
    for name in ("benign", "malignant"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "b" / name).mkdir(parents=True)
        for k in range(4):
            scan = _scan(rng)
            scan.save(tmp_path / "a" / name / f"{k}.png")
            other = scan if k < 2 else _scan(rng)
            if k == 0:
                other = other.resize((64, 64), Image.Resampling.BILINEAR)
            other.save(tmp_path / "b" / name / f"other {k}.png")
    return tmp_path / "a", tmp_path / "b"


def test_images_of_two_sets_are_found(two_sets: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two_sets
    words = ("--home", tmp_path / "home", "data", "check", first, second)
    answer = call_here(*words)
    assert answer.returncode == 0, answer.stderr
    assert f"4 images of {first} are also in {second} (4 images there)" in answer.stdout
    assert "benign/0.png is benign/other 0.png" in answer.stdout
    found = json.loads(call_here(*words, "--json").stdout)
    assert [one["num_images"] for one in found["sets"]] == [8, 8]
    (shared,) = found["across_sets"]
    assert shared["num_first"] == shared["num_second"] == 4
    assert shared["labels"] == [["benign", "benign", 2], ["malignant", "malignant", 2]]
    assert ["malignant/1.png", "malignant/other 1.png"] in shared["pairs"]


def test_sets_without_a_common_image_say_so(two_sets: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = two_sets
    for path in second.rglob("other [01].png"):
        path.unlink()
    answer = call_here("--home", tmp_path / "home", "data", "check", first, second)
    assert "have no image in common" in answer.stdout


def test_several_sets_and_options_of_one_are_refused(
    two_sets: tuple[Path, Path], tmp_path: Path
) -> None:
    home = ("--home", tmp_path / "home", "data", "check")
    first, second = two_sets
    for more in (("--write-table", tmp_path / "t.csv"), ("--groups", tmp_path / "g.csv")):
        answer = call_here(*home, first, second, *more)
        assert answer.returncode == 2
        assert one_sentence(answer)
    answer = call_here(*home, first, first)
    assert answer.returncode == 2
    assert "name each set once" in answer.stderr


@pytest.mark.slow
@pytest.mark.exhaustive
def test_breastmnist_is_found_in_busi(real_data: Path, tmp_path: Path) -> None:
    """A few images of each: 28 px against 500 px."""
    with np.load(real_data / "breastmnist.npz") as arrays:
        few = {name: array[:40] for name, array in arrays.items()}
    np.savez(tmp_path / "breastmnist.npz", **few)
    busi = real_data / "busi"
    answer = call_here(
        "--home", tmp_path / "home", "data", "check", tmp_path / "breastmnist.npz", busi, "--json"
    )
    (shared,) = json.loads(answer.stdout)["across_sets"]
    # Four in five images of BreastMNIST at hand are of the BUSI at hand: 96 of these 120.
    assert shared["num_first"] >= 93


def test_subgroups_have_shares_of_classes(tmp_path: Path) -> None:
    layouts.breast(tmp_path / "breast")
    dataset = read(tmp_path / "breast")
    found = {(part.by, part.level): part for part in find_subgroups(dataset)}
    sizes = {level: part for (by, level), part in found.items() if by == "lesion size"}
    assert sum(part.num_images for part in sizes.values()) == 6
    assert sizes["not known"].counts["normal"] == 2
    assert images_per_patient(dataset) == {1: 6}
    layouts.busbra(tmp_path / "busbra")
    assert images_per_patient(read(tmp_path / "busbra")) == {1: 3, 2: 3}


def test_properties_of_a_table_are_subgroups(tmp_path: Path) -> None:
    rows = ["file,label,site,age,birads,ward"]
    for k in range(6):
        layouts.picture(tmp_path / f"{k}.png", k)
        label = "malignant" if k % 3 == 0 else "benign"
        rows.append(f"{k}.png,{label},{'north' if k < 4 else ''},{35 + 8 * k},{3 + k % 2},w{k}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    found = {(p.by, p.level): p for p in find_subgroups(read(tmp_path / "labels.csv"))}
    assert dict(found["site", "north"].counts) == {"benign": 2, "malignant": 2}
    assert found["site", "not known"].num_images == 2
    assert found["age", "under 40"].num_images == 1
    assert found["age", "70 and over"].num_images == 1
    assert {level for by, level in found if by == "BI-RADS"} == {"3", "4"}
    assert found["ward", "w1"].counts["benign"] == 1


def test_the_page_shows_them(tmp_path: Path) -> None:
    layouts.bus_uclm(tmp_path / "set")
    page = tmp_path / "page.html"
    answer = call_here("--home", tmp_path / "home", "data", "describe", tmp_path, "--to", page)
    assert answer.returncode == 0, answer.stderr
    text = page.read_text()
    assert "<h2>Subgroups</h2>" in text
    assert "<td>doppler</td><td>no</td>" in text
    assert "images of one patient" in text
    assert "What files tell of the class" in text
