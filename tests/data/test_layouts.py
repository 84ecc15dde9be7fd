from pathlib import Path

import numpy as np
import pytest

from busi_search.data.classes import infer_positive, is_no_class
from busi_search.data.layouts.table import table_of_folder
from busi_search.data.sources import guess_source
from busi_search.errors import InputError
from tests.data import layouts
from tests.data.layouts import LAYOUTS, picture, read

REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.parametrize("title", LAYOUTS)
def test_every_layout_is_read_as_its_authors_mean_it(title: str, tmp_path: Path) -> None:
    write, source, classes, num_images, num_patients, num_with_masks = LAYOUTS[title]
    write(tmp_path)
    assert guess_source(str(tmp_path)) == source
    found = read(tmp_path)
    assert found.class_names == classes
    assert found.class_names[found.positive].lower() == "malignant"
    assert len(found) == num_images
    assert len({p for p in found.patients or () if p is not None}) == num_patients
    masks = list(found.masks())
    assert sum(m is not None for m in masks) == num_with_masks
    assert all(m is None or m.shape == (40, 48) for m in masks)
    assert all(image.shape == (40, 48) for image in found.images())


def test_masks_of_one_image_are_joined_and_colours_count(tmp_path: Path) -> None:
    for name in ("busi", "breast", "bus_uclm"):
        getattr(layouts, name)(tmp_path / name)
    joined = dict(zip((d := read(tmp_path / "busi")).paths, d.masks(), strict=True))
    assert np.count_nonzero(joined["benign/benign (2).png"]) == 200
    joined = dict(zip((d := read(tmp_path / "breast")).paths, d.masks(), strict=True))
    assert np.count_nonzero(joined["case001.png"]) == 200
    assert np.count_nonzero(joined["case003.png"]) == 100
    uclm = read(tmp_path / "bus_uclm")
    sizes = [np.count_nonzero(mask) for mask in uclm.masks()]
    assert [size > 0 for size in sizes] == [label != 2 for label in uclm.labels]
    assert uclm.properties["doppler"][:3] == ("no", "yes", "yes")
    assert any("one patient" in note for note in uclm.notes)


def test_busbra_keeps_the_authors_folds_and_properties(tmp_path: Path) -> None:
    layouts.busbra(tmp_path / "BUSBRA")
    found = read(tmp_path)
    assert set(found.folds or ()) == {"1", "2"}
    assert set(found.properties["device"]) == {"GE"}
    half = found.subset(np.arange(3))
    assert half.patients == (found.patients or ())[:3]
    assert len(half.properties["device"]) == 3


def test_sites_are_no_classes(tmp_path: Path) -> None:
    layouts.gdph_sysucc(tmp_path)
    (tmp_path / "GDPH").rename(tmp_path / "Hospital A")
    with pytest.raises(InputError, match=r"hospitals or devices.*--write-table"):
        read(tmp_path)


def test_a_name_that_contradicts_its_folder_is_told(tmp_path: Path) -> None:
    layouts.busi(tmp_path)
    root = tmp_path / "Dataset_BUSI_with_GT"
    (root / "benign/benign (1).png").rename(root / "malignant/benign (1).png")
    assert any("benign (1).png" in note for note in read(tmp_path).notes)


@pytest.mark.parametrize("names", [("images", "masks"), ("original", "GT"), ("train", "test")])
def test_kinds_of_files_are_no_classes(names: tuple[str, str], tmp_path: Path) -> None:
    for seed, name in enumerate(names):
        picture(tmp_path / name / "001.png", seed)
    with pytest.raises(InputError, match=r"not which class.*--write-table"):
        read(tmp_path)
    assert all(is_no_class(name) for name in names)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("benign", "malignant", "normal"), "malignant"),
        (("malignant", "normal or benign"), "malignant"),
        (("malignant", "non-malignant"), "malignant"),
        (("cancer", "no_cancer"), "cancer"),
        (("abnormal", "normal"), "abnormal"),
        (("carcinoma", "fibroadenoma"), "carcinoma"),
        (("benign", "suspicious"), "suspicious"),
        (("0", "1"), None),
        (("A", "B"), None),
        (("benign", "normal"), None),
    ],
)
def test_the_disease_is_told_from_the_names(names: tuple[str, ...], expected: str | None) -> None:
    found = infer_positive(names)
    assert (None if found is None else names[found]) == expected


def test_the_disease_is_asked_for_and_can_be_stated(tmp_path: Path) -> None:
    for seed, name in enumerate(("group a", "group b")):
        picture(tmp_path / name / "001.png", seed)
    with pytest.raises(InputError, match="which one is the disease"):
        read(tmp_path)
    assert read(tmp_path, positive="group a").positive == 0
    with pytest.raises(InputError, match="no class 'group c'"):
        read(tmp_path, positive="group c")


def _table(folder: Path, text: str) -> Path:
    for k in range(4):
        picture(folder / f"pictures/{k}.png", k)
    layouts.mask(folder / "pictures/0_mask.png")
    path = folder / "labels.csv"
    path.write_text(text)
    return path


def test_a_table_with_all_it_may_have(tmp_path: Path) -> None:
    path = _table(
        tmp_path,
        "Image;Class;Case;Hospital;BI-RADS;kfold;split;mask\n"
        "pictures/0.png;benign;7;north;3;1;train;pictures/0_mask.png\n"
        "pictures/1;malignant;7;north;5;1;train;\n"
        "pictures/2.png;malignant;8;south;4;2;test;\n",
    )
    found = read(path)
    assert found.paths == ("pictures/0.png", "pictures/1.png", "pictures/2.png")
    assert found.patients == ("7", "7", "8")
    assert found.properties == {"site": ("north", "north", "south"), "birads": ("3", "5", "4")}
    assert found.folds == ("1", "1", "2")
    assert found.official == ("train", "train", "test")
    assert [m is not None for m in found.masks()] == [True, False, False]
    assert any("'Image'" in note for note in found.notes)
    assert any("pictures/3.png" in note for note in found.notes)
    told = read(path, columns={"file": "Image", "label": "Class", "ward": "Hospital"})
    assert told.properties["ward"] == ("north", "north", "south")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\nx,y\n", "no column tells the file"),
        ("file,label\npictures/9.png,benign\n", r"1 of 1 file.*pictures/9\.png"),
        ("file,label\npictures/0.png,\n", "line 2 .*no label"),
        ("file,label\npictures/0.png,a\npictures/0.png,b\n", "listed twice"),
        ("file,label,label\npictures/0.png,a,b\n", "two columns"),
        ("file,label\npictures/0.png,a,b\n", "more cells"),
        ("file,label\n../x/secret.png,a\npictures/0.png,b\n", "lies outside"),
        ("file,label,split\npictures/0.png,a,later\n", "train, val or test"),
        ("file,label,mask\npictures/0.png,a,none.png\n", "mask 'none.png'"),
        ("file,label\npictures/0.png,benign\n", "at least two classes"),
        ("", "no rows"),
    ],
)
def test_tables_that_cannot_be_used(text: str, words: str, tmp_path: Path) -> None:
    picture(tmp_path / "x" / "secret.png", 0)
    path = _table(tmp_path / "set", text)
    with pytest.raises(InputError, match=words) as caught:
        read(path)
    assert "labels.csv" in str(caught.value) or "set" in str(caught.value)


def test_a_first_table_is_written_from_folders_of_patients(tmp_path: Path) -> None:
    for k, place in enumerate(("benign/p1", "benign/p1", "malignant/p2")):
        picture(tmp_path / place / f"{k}.png", k)
    layouts.mask(tmp_path / "benign/p1/0_mask.png")
    assert table_of_folder(tmp_path, tmp_path / "labels.csv") == 3
    assert (tmp_path / "labels.csv").read_text().splitlines() == [
        "file,label,patient,mask",
        "benign/p1/0.png,benign,p1,benign/p1/0_mask.png",
        "benign/p1/1.png,benign,p1,",
        "malignant/p2/2.png,malignant,p2,",
    ]
    written, folders = read(tmp_path / "labels.csv"), read(tmp_path)
    assert written.patients == folders.patients == ("p1", "p1", "p2")
    assert written.fingerprint == folders.fingerprint
    with pytest.raises(InputError, match="there already"):
        table_of_folder(tmp_path, tmp_path / "labels.csv")


def test_the_real_busbra() -> None:
    if not (REAL / "BUSBRA").is_dir():
        pytest.skip("no real images here")
    found = read(REAL / "BUSBRA")
    assert len(found) == 1875
    assert np.bincount(found.labels).tolist() == [1268, 607]
    assert len(set(found.patients or ())) == 1064
    assert set(found.folds or ()) == {"1", "2", "3", "4", "5"}
    assert found.masks_digest is not None
