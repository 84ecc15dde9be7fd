"""Masks are no images, in whichever published layout they lie."""

from pathlib import Path

import pytest

from busi_search.errors import InputError
from busi_search.models.asked_files import find_images
from tests.data.layouts import LAYOUTS, picture, read


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_published_set_is_asked_about_without_its_masks(name: str, tmp_path: Path) -> None:
    write = LAYOUTS[name][0]
    root = tmp_path / "set"
    root.mkdir()
    write(root)
    dataset = read(root)
    listed = {(dataset.reader.root / path).resolve() for path in dataset.paths}
    assert [path.resolve() for path in find_images([root]) if path.resolve() not in listed] == []
    assert len(find_images([root])) == len(listed)


def test_a_folder_of_masks_is_taken_if_it_is_named_itself(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "Images" / "a.png", 1)
    picture(tmp_path / "set" / "Masks" / "a.png", 2)
    assert find_images([tmp_path / "set"]) == [tmp_path / "set" / "Images" / "a.png"]
    named = find_images([tmp_path / "set" / "Masks"])
    assert named == [tmp_path / "set" / "Masks" / "a.png"]


def test_a_folder_of_masks_alone_holds_no_image(tmp_path: Path) -> None:
    picture(tmp_path / "set" / "gt" / "a.png", 1)
    with pytest.raises(InputError, match="no image in this folder"):
        find_images([tmp_path / "set"])
