"""A table says where lesions are: read right, or refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.describe import check_dataset
from busi_search.data.geometry import Box, Geometry, bring_to_size
from busi_search.data.image_cache import load_images
from busi_search.data.images import upright_size
from busi_search.data.lesions import check_lesions, find_lesions
from busi_search.data.sources import load_dataset
from busi_search.errors import InputError
from busi_search.models.lesion_places import find_places
from busi_search.spec import DatasetSection
from tests.data import layouts
from tests.data.layouts import read

EXPECTED = Box(0.25, 0.1, 0.75, 0.6)  # of 48 × 40 pixels: x 12, y 4, width 24, height 20


def _table(folder: Path, columns: str, *cells: str) -> Path:
    """A table of four images, two of a class, whose last columns are the given ones."""
    rows = [f"file;label;{columns}"]
    for k, cell in enumerate(cells):
        layouts.picture(folder / f"{k}.png", k)
        rows.append(f"{k}.png;{'benign' if k % 2 else 'malignant'};{cell}")
    path = folder / "labels.csv"
    path.write_text("\n".join(rows))
    return path


@pytest.mark.parametrize(
    ("columns", "cell", "mapped"),
    [
        ("box", "12 4 24 20", {}),
        ("BBOX", "[12, 4, 24, 20]", {}),
        ("bounding box", "(12.0,4,24,20)", {}),
        ("box_x;box_y;box_w;box_h", "12;4;24;20", {}),
        ("x;y;width;height", "12;4;24;20", {}),
        ("Kasten", "12 4 24 20", {"box": "Kasten"}),
        (
            "links;oben;breit;hoch",
            "12;4;24;20",
            {"box_x": "links", "box_y": "oben", "box_width": "breit", "box_height": "hoch"},
        ),
    ],
)
def test_boxes_are_read(columns: str, cell: str, mapped: dict[str, str], tmp_path: Path) -> None:
    none = ";" * columns.count(";")
    dataset = read(_table(tmp_path, columns, cell, cell, none, cell), columns=mapped)
    assert list(dataset.lesions()) == [EXPECTED, EXPECTED, None, EXPECTED]
    assert dataset.lesions_digest is not None
    assert dataset.properties == {}
    assert any("3 of 4 images have a box" in note for note in dataset.notes)
    again = read(_table(tmp_path, columns, cell, cell, none, none), columns=mapped)
    assert again.lesions_digest != dataset.lesions_digest


@pytest.mark.parametrize(
    ("columns", "cell", "words"),
    [
        ("box", "12 4 48 20", "12 4 48 20, which does not lie in the image of 48 × 40 pixels;"),
        ("box", "30 25 45 35", r"two corners \(left top right bottom\)"),
        ("box", "12 4 0 20", "is empty"),
        ("box", "12 4 24", "'12 4 24', which is not four numbers"),
        ("box", "12 4 24 nan", "not four numbers"),
        ("x;y;width;height", "12;4;;20", "not four numbers"),
        ("bbox_x;bbox_y;bbox_w", "12;4;24", "none tells its box_height"),
    ],
)
def test_boxes_that_cannot_be_meant_are_refused(
    columns: str, cell: str, words: str, tmp_path: Path
) -> None:
    good = ";".join(["12", "4", "24", "20"][: columns.count(";") + 1])
    table = _table(tmp_path, columns, "12 4 24 20" if columns == "box" else good, cell)
    with pytest.raises(InputError, match=words) as caught:
        read(table)
    assert "labels.csv" in str(caught.value)
    if "none tells" not in words:
        assert "'1.png'" in str(caught.value)


def test_a_pixel_over_the_edge_is_rounding(tmp_path: Path) -> None:
    dataset = read(_table(tmp_path, "box", "-0.4 4 24.4 36.5", "12 4 37 20"))
    assert list(dataset.lesions()) == [Box(0, 0.1, 0.5, 1), Box(0.25, 0.1, 1, 0.6)]
    with pytest.raises(InputError, match="does not lie"):
        read(_table(tmp_path, "box", "12 4 24 20", "12 4 37.5 20"))


def test_columns_that_only_look_like_boxes_stay_properties(tmp_path: Path) -> None:
    archive = read(_table(tmp_path / "a", "box", "shelf 3", "shelf 4"))
    assert archive.boxes is None
    assert archive.properties["box"] == ("shelf 3", "shelf 4")
    size = read(_table(tmp_path / "b", "width;height", "48;40", "48;40"))
    assert size.boxes is None
    assert set(size.properties) == {"width", "height"}
    mapped = read(
        _table(tmp_path / "c", "bbox", "1 1 5 5", "1 1 5 5"), columns={"annotation": "bbox"}
    )
    assert mapped.boxes is None


def test_a_mask_counts_more_than_a_box(tmp_path: Path) -> None:
    table = _table(tmp_path, "box;mask", "12 4 24 20;m.png", "12 4 24 20;")
    layouts.mask(tmp_path / "m.png")
    dataset = read(table)
    assert list(dataset.lesions()) == [Box(10 / 48, 0.25, 20 / 48, 0.5), EXPECTED]


def test_a_turned_image_is_meant_as_it_is_shown(tmp_path: Path) -> None:
    table = _table(tmp_path, "box", "4 12 20 24", "12 4 24 20")
    tags = Image.Exif()
    tags[0x0112] = 6
    layouts.picture(tmp_path / "0.png", 0)
    Image.open(tmp_path / "0.png").save(tmp_path / "0.png", exif=tags)
    assert upright_size(tmp_path / "0.png") == (40, 48)
    dataset = read(table)
    assert next(dataset.images()).shape == (48, 40)
    assert list(dataset.lesions()) == [Box(0.1, 0.25, 0.6, 0.75), EXPECTED]


def test_the_check_counts_places_by_class(tmp_path: Path) -> None:
    table = _table(tmp_path, "box", "12 4 24 20", "12 4 24 20", "", "1 1 5 5")
    found = check_dataset(str(table), cache=tmp_path / "cache")
    assert found["lesions"] == {"benign": 2, "malignant": 1}


def test_the_same_table_says_where_lesions_are_for_a_prediction(tmp_path: Path) -> None:
    table = _table(tmp_path, "box", "12 4 24 20", "[12,4,24,20]")
    files = [tmp_path / "0.png", tmp_path / "1.png"]
    places = find_places(files, table)
    assert [places.of(file) for file in files] == [EXPECTED] * 2
    np.testing.assert_array_equal([places.boxes[file] for file in files], [(12, 4, 24, 20)] * 2)


def test_several_sources_show_the_whole_and_the_lesion(tmp_path: Path) -> None:
    for k, label in enumerate(("benign", "malignant")):
        layouts.picture(tmp_path / f"north/{label}/1.png", 10 + k)
        layouts.mask(tmp_path / f"north/{label}/1_mask.png")
    table = _table(tmp_path / "south", "box", "12 4 24 20", "12 4 24 20")
    sources = [{"site": "North", "path": str(tmp_path / "north")},
               {"site": "South", "path": str(table)}]  # fmt: skip
    dataset = load_dataset(
        DatasetSection.model_validate({"source": "several", "sources": sources, "region": "both"})
    )
    by_mask = Box(10 / 48, 0.25, 20 / 48, 0.5)
    lesions = find_lesions(dataset, tmp_path / "cache")
    assert lesions == [by_mask, by_mask, EXPECTED, EXPECTED]
    assert check_lesions(dataset, lesions) == []
    geometry = Geometry(region="both")
    seen = load_images(dataset, 28, tmp_path / "cache", geometry)
    assert seen.shape == (4, 2, 28, 28)
    last = list(dataset.images())[-1]
    np.testing.assert_array_equal(seen[-1], bring_to_size(last, 28, geometry, EXPECTED))
