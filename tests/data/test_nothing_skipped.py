"""What is not read is said, with counts; a class that would be smaller than it is stops."""

import os
from pathlib import Path

import pytest
from PIL import Image

from busi_search.data.layouts.table import table_of_folder
from busi_search.errors import InputError
from tests.data.layouts import mask, picture, read


def _classes(root: Path, names: tuple[str, ...] = ("benign", "malignant"), count: int = 4) -> None:
    for c, name in enumerate(names):
        for k in range(count):
            picture(root / name / f"{name} ({k}).png", 100 * c + k)


def _found(path: Path) -> dict[str, int]:
    dataset = read(path)
    return {
        name: int((dataset.labels == label).sum()) for label, name in enumerate(dataset.class_names)
    }


@pytest.mark.parametrize(
    "ending",
    [
        "_mask",
        "_mask_1",
        "_mask - Copy",
        "_mask copy",
        "_mask - Kopie",
        "_mask (2)",
        "_mask - Copy (2)",
        "_MASK",
        "_tumor",
        "_tumour1",
        "_seg",
        "_segmentation",
        "-seg",
        " gt",
        "_lesion",
        "_seg - Copy",
    ],
)
def test_masks_are_told_by_many_endings(ending: str, tmp_path: Path) -> None:
    _classes(tmp_path)
    mask(tmp_path / "benign" / f"benign (1){ending}.png")
    assert _found(tmp_path) == {"benign": 4, "malignant": 4}
    dataset = read(tmp_path)
    masks = dict(zip(dataset.paths, dataset.masks(), strict=True))
    assert masks["benign/benign (1).png"] is not None
    assert masks["benign/benign (2).png"] is None


def test_a_word_in_a_name_makes_no_mask_without_its_image(tmp_path: Path) -> None:
    _classes(tmp_path)
    picture(tmp_path / "malignant" / "left_tumor.png", 7)
    picture(tmp_path / "malignant" / "copy (2).png", 8)
    assert _found(tmp_path) == {"benign": 4, "malignant": 6}


def test_a_mask_without_an_image_and_one_of_something_else_are_said(tmp_path: Path) -> None:
    _classes(tmp_path)
    mask(tmp_path / "benign" / "gone_mask.png")
    mask(tmp_path / "benign" / "benign (1)_other1.png")
    (tmp_path / "benign" / "notes.txt").write_text("seen")
    (tmp_path / "benign" / "Thumbs.db").write_bytes(b"\0")
    notes = " ".join(read(tmp_path).notes)
    assert "left out 2 files named as masks" in notes
    assert "left out 1 file of other kinds" in notes
    assert "1 .txt" in notes
    assert _found(tmp_path) == {"benign": 4, "malignant": 4}


@pytest.mark.parametrize("suffix", [".jp2", ".heic", ".nii.gz", ".npy", ""])
def test_an_unread_format_stops_and_is_counted(suffix: str, tmp_path: Path) -> None:
    _classes(tmp_path)
    for k in range(3):
        content = b"\x89PNG" + b"\0" * 200
        (tmp_path / "malignant" / f"x{k}{suffix}").write_bytes(content)
    with pytest.raises(InputError, match=r"malignant: 3 of its image files are not read.*and 4"):
        read(tmp_path)
    for path in (tmp_path / "malignant").glob("*.png"):
        path.unlink()
    with pytest.raises(InputError, match=r"malignant: 3 of its image files are not read.*and 0"):
        read(tmp_path)


@pytest.mark.parametrize("suffix", [".dcm", ""])
def test_a_damaged_dicom_file_stops(suffix: str, tmp_path: Path) -> None:
    _classes(tmp_path)
    file = tmp_path / "malignant" / f"x{suffix}"
    file.write_bytes(b"\0" * 128 + b"DICM" + b"\0" * 200)
    with pytest.raises(InputError, match=f"{file}: not a readable DICOM file"):
        read(tmp_path)


def test_jfif_is_read(tmp_path: Path) -> None:
    _classes(tmp_path)
    Image.open(tmp_path / "benign" / "benign (1).png").save(tmp_path / "benign" / "x.jfif", "JPEG")
    assert _found(tmp_path) == {"benign": 5, "malignant": 4}


@pytest.mark.parametrize("name", ["normal", "cancer", "empty"])
def test_an_empty_class_stops(name: str, tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=rf"{name}: no images in this class folder"):
        read(tmp_path)


def test_folders_that_are_no_classes_are_said(tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "one.pdf").write_bytes(b"%PDF")
    picture(tmp_path / "loose.png", 9)
    notes = " ".join(read(tmp_path).notes)
    assert "'papers' holds no images and was left out (1 .pdf)" in notes
    assert "1 image file beside the class folders" in notes


def test_patients_at_any_depth_are_read(tmp_path: Path) -> None:
    _classes(tmp_path, ("benign", "normal"))
    for k in range(4):
        picture(tmp_path / f"malignant/p{k // 2}/visit {k}/{k}.png", 50 + k)
    mask(tmp_path / "malignant/p0/masks/0.png")
    assert _found(tmp_path) == {"benign": 4, "malignant": 4, "normal": 4}
    dataset = read(tmp_path)
    assert sorted({p for p in dataset.patients or () if p}) == ["p0", "p1"]
    assert sum(m is not None for m in dataset.masks()) == 1


def test_a_linked_folder_is_not_passed_over(tmp_path: Path) -> None:
    _classes(tmp_path / "set", ("benign", "normal"))
    picture(tmp_path / "elsewhere" / "1.png", 70)
    picture(tmp_path / "set/malignant/p1/0.png", 71)
    (tmp_path / "set/malignant/p1/back").symlink_to(tmp_path / "set/malignant")
    assert _found(tmp_path / "set")["malignant"] == 1
    (tmp_path / "set/malignant/p1/linked").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link to a file outside"):
        read(tmp_path / "set")


def test_images_on_two_levels_stop(tmp_path: Path) -> None:
    _classes(tmp_path)
    picture(tmp_path / "benign/more/1.png", 70)
    with pytest.raises(InputError, match="on one level"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        (("Hospital A", "Hospital B"), ("benign", "malignant")),
        (("benign", "malignant"), ("train", "test")),
    ],
)
def test_folders_inside_that_are_no_patients_stop(
    outer: tuple[str, ...], inner: tuple[str, ...], tmp_path: Path
) -> None:
    for a in outer:
        for k, b in enumerate(inner):
            picture(tmp_path / a / b / f"{k}.png", k)
    with pytest.raises(InputError, match=r"inside.*--write-table"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["train", "Test", "train_images", "val-masks", "unlabelled"])
def test_parts_of_a_set_are_no_classes(name: str, tmp_path: Path) -> None:
    _classes(tmp_path)
    picture(tmp_path / name / "1.png", 3)
    with pytest.raises(InputError, match="not which class"):
        read(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_folder_stops(tmp_path: Path) -> None:
    _classes(tmp_path)
    closed = tmp_path / "malignant" / "closed"
    closed.mkdir()
    closed.chmod(0)
    try:
        for look in (read, lambda path: table_of_folder(path, path / "labels.csv")):
            with pytest.raises(InputError, match="closed: cannot be read"):
                look(tmp_path)
    finally:
        closed.chmod(0o700)


def test_a_folder_that_the_system_refuses_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _classes(tmp_path)
    (tmp_path / "malignant" / "closed").mkdir()
    real = os.scandir

    def refuse(path: str | Path) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", refuse)
    for look in (read, lambda path: table_of_folder(path, path / "labels.csv")):
        with pytest.raises(InputError, match=r"closed: cannot be read \(Permission denied\)"):
            look(tmp_path)


def test_what_a_table_does_not_list_is_said(tmp_path: Path) -> None:
    _classes(tmp_path)
    (tmp_path / "malignant" / "1.jp2").write_bytes(b"\0" * 200)
    table = tmp_path / "labels.csv"
    rows = [f"{name}/{name} ({k}).png,{name}" for name in ("benign", "malignant") for k in (1, 2)]
    table.write_text("file,label\n" + "\n".join(rows) + "\n")
    notes = " ".join(read(table).notes)
    assert "left out 4 image files not listed" in notes
    assert "left out 1 file of other formats beside the images (1 .jp2)" in notes
