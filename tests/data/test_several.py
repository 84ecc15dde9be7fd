"""Several sources as one dataset: sites, classes, patients, twins, pixels."""

import pickle
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from busi_search.data.class_mapping import LEAVE_OUT
from busi_search.data.dataset import ImageDataset
from busi_search.data.partition import Partition, make_partition
from busi_search.data.phantom import simulate_phantom, write_phantom
from busi_search.data.sources import load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection
from tests.conftest import smooth_image

NORTH = {"site": "North", "path": "north", "map": {"normal": LEAVE_OUT}}
SOUTH = {"site": "South", "path": "south/labels.csv"}


def _section(*entries: Mapping[str, Any], **more: Any) -> DatasetSection:
    content = {"source": "several", "sources": list(entries), "image_size_pixels": 32, **more}
    return DatasetSection.model_validate(content)


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources") / "north"
    write_phantom(folder, simulate_phantom(70, size_pixels=40, seed=1))
    return folder


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, north: Path) -> Path:
    """A class folder with normal images, and another hospital's table with patients."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(north, tmp_path / "north")
    rng = np.random.default_rng(5)
    rows = ["image,class,patient_id,device"]
    (tmp_path / "south").mkdir()
    for number in range(60):
        Image.fromarray(smooth_image(rng)).save(tmp_path / f"south/{number}.png")
        name = "Malignant" if number % 3 == 0 else "Benign"
        rows.append(f"{number}.png,{name},p{number // 2},X")
    (tmp_path / "south/labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path


def _divide(dataset: ImageDataset, section: DatasetSection, cache: Path) -> Partition:
    return make_partition(dataset, section, seed=0, cache=cache)


def test_two_sources_are_one_set_whose_images_know_their_site(places: Path) -> None:
    found = load_dataset(_section(NORTH, SOUTH))
    assert found.class_names == ("benign", "malignant")
    assert found.positive == 1
    assert found.name == "north-south"
    sites = np.asarray(found.properties["site"])
    assert set(sites) == {"North", "South"}
    assert (sites == "South").sum() == 60
    assert found.properties["device"][-1] == "X"
    assert len(set(found.paths)) == len(found)
    assert found.paths[-1] == "South/59.png"
    # One patient's images have one name; those of a set without patients have none.
    assert found.patients is not None
    assert found.patients[-1] == "South/p29"
    assert found.patients[0] is None
    assert any("left out by its map" in note for note in found.notes)
    # Upper and lower case are one class, and pixels are those of the files.
    assert (found.labels[sites == "South"] == (np.arange(60) % 3 == 0)).all()
    last = np.asarray(Image.open(places / "south/59.png"))
    again = pickle.loads(pickle.dumps(found))
    assert (list(again.images())[-1] == last).all()
    mixed = found.subset(np.array([len(found) - 1, 0, len(found) - 2]))
    assert (next(iter(mixed.images())) == last).all()
    masks = list(mixed.masks())
    assert masks[0] is None
    assert masks[1] is not None
    assert found.masks_digest is not None


def test_the_sealed_test_holds_its_share_of_every_class_of_every_site(
    places: Path, tmp_path: Path
) -> None:
    section = _section(NORTH, SOUTH)
    found = load_dataset(section)
    partition = _divide(found, section, tmp_path / "cache")
    sites = np.asarray(found.properties["site"])
    sealed = np.isin(np.arange(len(found)), partition.test)
    for site in ("North", "South"):
        for label in (0, 1):
            of = (sites == site) & (found.labels == label)
            assert abs(sealed[of].sum() - 0.2 * of.sum()) <= 1.5
    assert not set(partition.groups[partition.test]) & set(partition.development_groups)


def test_folds_leave_one_site_out_whatever_their_number(places: Path, tmp_path: Path) -> None:
    section = _section(NORTH, SOUTH, folds="site")
    found = load_dataset(section)
    partition = _divide(found, section, tmp_path / "cache")
    assert len(partition.folds) == 2
    sites = np.asarray(found.properties["site"])[partition.development]
    for fold, site in zip(partition.folds, ("North", "South"), strict=True):
        assert set(sites[fold.validation]) == {site}
        assert site not in set(sites[fold.train])
    with pytest.raises(InputError, match="set num_folds = 2"):
        _divide(found, _section(NORTH, SOUTH, folds="site", num_folds=5), tmp_path / "cache")


def test_twins_across_sources_stay_together(places: Path, tmp_path: Path) -> None:
    listed = load_dataset(_section(NORTH, SOUTH))
    name = next(path for path in listed.paths if "benign" in path)
    copied = next(p for p in (places / "north").rglob("*.png") if str(p).endswith(name[6:]))
    with Image.open(copied) as image:
        image.convert("L").resize((44, 44)).save(places / "south/1.png")
    section = _section(NORTH, SOUTH, folds="site")
    found = load_dataset(section)
    partition = _divide(found, section, tmp_path / "cache")
    theirs = found.paths.index("South/1.png")
    ours = found.paths.index(name)
    assert partition.groups[theirs] == partition.groups[ours]
    # Whichever site is scored, its copy at the other is not trained on.
    for fold in partition.folds:
        scored = set(partition.development_groups[fold.validation])
        assert not scored & set(partition.development_groups[fold.train])


def test_three_sites_and_a_table_of_sites_of_its_own(places: Path) -> None:
    shutil.copytree(places / "south", places / "east")
    table = places / "east/labels.csv"
    rows = table.read_text().splitlines()
    sited = [f"{row},{'A' if i % 2 else 'B'}" for i, row in enumerate(rows[1:])]
    table.write_text("\n".join([rows[0] + ",hospital", *sited]) + "\n")
    found = load_dataset(
        _section(NORTH, SOUTH, {"site": "East", "path": "east/labels.csv", "source": "table"})
    )
    assert set(found.properties["site"]) == {"North", "South", "East A", "East B"}
    # The same names at two hospitals are two patients.
    assert found.patients is not None
    assert {"South/p0", "East/p0"} <= set(found.patients)


@pytest.mark.parametrize(
    ("entries", "sentence"),
    [
        (({"site": "North", "path": "north"}, SOUTH), "no image of class 'normal'"),
        ((SOUTH, {"site": "North", "path": "north"}), "'normal' is none of the study's classes"),
        ((NORTH | {"map": {"nothing": "benign"}}, SOUTH), "there is no class 'nothing'"),
        ((NORTH | {"map": {"normal": "benign", "malignant": "benign"}}, SOUTH), "fewer than two"),
        ((NORTH, SOUTH | {"path": "nowhere"}), "nowhere: no such file"),
    ],
)
def test_what_does_not_fit_is_said(
    places: Path, entries: tuple[Mapping[str, Any], ...], sentence: str
) -> None:
    if "no image" in sentence:
        assert any(sentence in note for note in load_dataset(_section(*entries)).notes)
        return
    with pytest.raises(InputError, match=sentence):
        load_dataset(_section(*entries))


def test_a_test_split_of_one_table_is_not_silently_developed_on(places: Path) -> None:
    table = places / "south/labels.csv"
    rows = table.read_text().splitlines()
    split = [f"{row},{'test' if i < 9 else 'train'}" for i, row in enumerate(rows[1:])]
    table.write_text("\n".join([rows[0] + ",split", *split]) + "\n")
    with pytest.raises(InputError, match="its column split names test images"):
        load_dataset(_section(NORTH, SOUTH))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"source": "several"}, "needs two"),
        ({"source": "several", "sources": [NORTH]}, "needs two"),
        ({"source": "busi", "sources": [NORTH, SOUTH]}, 'needs source = "several"'),
        ({"source": "several", "sources": [NORTH, NORTH]}, "the same site"),
        ({"source": "several", "sources": [NORTH, SOUTH], "path": "x"}, "no path of its own"),
        ({"source": "several", "sources": [NORTH, SOUTH | {"site": "a/b"}]}, "without slashes"),
    ],
)
def test_a_study_file_that_makes_no_sense_is_refused(
    content: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        DatasetSection.model_validate(content)
