"""What of an image is seen: aspect, region, screen furniture."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_search.data.geometry import WHOLE, Box, Geometry, bring_to_size, lesion_box
from busi_search.data.image_cache import load_images, load_masks
from busi_search.data.images import resize_image
from busi_search.data.lesions import check_lesions, find_lesions
from busi_search.data.screen_crop import find_screen_crop
from busi_search.data.sources import load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(40, 255, (height, width)).astype(np.uint8)


def test_whole_squashed_images_are_what_they_always_were() -> None:
    image = noise(40, 60)
    np.testing.assert_array_equal(bring_to_size(image, 32), resize_image(image, 32))
    assert WHOLE.tag == ""


def test_letterbox_keeps_proportions_and_leaves_the_rest_black() -> None:
    image = np.full((20, 40), 200, dtype=np.uint8)
    seen = bring_to_size(image, 32, Geometry("letterbox"))
    assert not seen[:8].any()
    assert not seen[24:].any()
    np.testing.assert_array_equal(seen[8:24], 200)
    tall = bring_to_size(image.T, 32, Geometry("letterbox"))
    np.testing.assert_array_equal(tall, seen.T)


def test_crop_keeps_the_middle() -> None:
    image = np.zeros((20, 40), dtype=np.uint8)
    image[:, 10:30] = 255
    np.testing.assert_array_equal(bring_to_size(image, 20, Geometry("crop")), 255)


@pytest.mark.parametrize("aspect", ["squash", "letterbox", "crop"])
def test_the_lesion_stands_in_the_middle_with_its_margin(aspect: str) -> None:
    image = np.full((100, 100), 50, dtype=np.uint8)
    image[40:60, 30:50] = 250
    lesion = lesion_box(np.where(image > 100, 255, 0).astype(np.uint8))
    assert lesion == Box(0.3, 0.4, 0.5, 0.6)
    seen = bring_to_size(image, 40, Geometry(aspect, "lesion", margin=0.5), lesion)
    np.testing.assert_array_equal(seen[12:28, 12:28], 250)
    assert seen[:8].max() == seen[:, :8].max() == 50
    # Half of its width on every side: the lesion takes half of the square.
    assert (seen > 150).mean() == pytest.approx(0.25, abs=0.02)


def test_proportions_of_a_lesion_are_kept_on_request() -> None:
    image = np.full((100, 100), 50, dtype=np.uint8)
    image[45:55, 30:70] = 250
    lesion = lesion_box(np.where(image > 100, 255, 0).astype(np.uint8))

    def shape(aspect: str) -> tuple[int, int]:
        seen = bring_to_size(image, 80, Geometry(aspect, "lesion"), lesion) > 150
        return int(seen.any(axis=1).sum()), int(seen.any(axis=0).sum())

    squashed, boxed = shape("squash"), shape("letterbox")
    assert squashed[0] == pytest.approx(squashed[1], abs=1)
    assert boxed[1] == pytest.approx(4 * boxed[0], abs=2)


@pytest.mark.parametrize("aspect", ["letterbox", "crop"])
def test_a_lesion_at_the_edge(aspect: str) -> None:
    image = noise(60, 40)
    lesion = Box(0.8, 0.0, 1.0, 0.1)
    seen = bring_to_size(image, 32, Geometry(aspect, "lesion", margin=1.0), lesion)
    # Only a letterbox may show black, beyond the image's edge.
    assert (seen.min() > 0) == (aspect == "crop")


def test_both_regions_and_none_known() -> None:
    image, lesion = noise(50, 50), Box(0.2, 0.2, 0.4, 0.4)
    both = bring_to_size(image, 16, Geometry(region="both"), lesion)
    assert both.shape == (2, 16, 16)
    np.testing.assert_array_equal(both[0], bring_to_size(image, 16))
    alone = bring_to_size(image, 16, Geometry(region="lesion"), lesion)
    np.testing.assert_array_equal(both[1], alone)
    blind = bring_to_size(image, 16, Geometry(region="both"))
    np.testing.assert_array_equal(blind[1], both[0])


def test_the_screen_is_cut_away_before_the_lesion_is_found() -> None:
    picture = noise(40, 60)
    screen = np.zeros((80, 100), dtype=np.uint8)
    screen[30:70, 20:80] = picture
    crop = Box(0.2, 30 / 80, 0.8, 70 / 80)
    cut = Geometry(crop=crop)
    np.testing.assert_array_equal(bring_to_size(screen, 24, cut), bring_to_size(picture, 24))
    inside, outside = Box.of_pixels(6, 4, 12, 20, picture), Box.of_pixels(26, 34, 12, 20, screen)
    np.testing.assert_array_equal(
        bring_to_size(screen, 24, Geometry(region="lesion", crop=crop), outside),
        bring_to_size(picture, 24, Geometry(region="lesion"), inside),
    )


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (0, 0, 5, -1), (-1, 0, 5, 5), (8, 0, 5, 5), (float("nan"), 0, 5, 5)]
)
def test_boxes_must_lie_in_the_image(box: tuple[float, float, float, float]) -> None:
    with pytest.raises(ValueError, match="does not lie in the image"):
        Box.of_pixels(*box, noise(10, 10))


def test_a_geometry_is_kept_as_json() -> None:
    geometry = Geometry("crop", "both", 0.25, Box(0.0, 0.1, 0.9, 1.0))
    assert Geometry.from_json(json.loads(json.dumps(geometry.to_json()))) == geometry
    assert Geometry.from_json(None) == WHOLE
    assert len({Geometry(a, r).tag for a in ("squash", "crop") for r in ("image", "both")}) == 4


def folder_of(root: Path, frames: bool = False, normal: bool = False) -> DatasetSection:
    """Two classes of twelve images each with masks; a frame of the screen around, if wanted."""
    for label, name in enumerate(("benign", "malignant", "normal")[: 3 if normal else 2]):
        (root / name).mkdir(parents=True)
        for index in range(12):
            image = noise(64, 96, seed=100 * label + index)
            mask = np.zeros_like(image)
            if name != "normal":
                mask[20:40, 30 + index : 60 + index] = 255
            if frames:
                image[:16], image[:, 72:] = 7, 120
            Image.fromarray(image).save(root / name / f"{name} ({index}).png")
            Image.fromarray(mask).save(root / name / f"{name} ({index})_mask.png")
    return DatasetSection(source="busi", path=str(root))


def test_screen_furniture_is_found(tmp_path: Path) -> None:
    framed = load_dataset(folder_of(tmp_path / "framed", frames=True))
    found = find_screen_crop(framed, tmp_path / "cache")
    assert found is not None
    edges = (found.left, found.top, found.right, found.bottom)
    # Images are compared at 128 px; at an edge one of them mixes both.
    assert edges == pytest.approx((0, 0.25, 0.75, 1), abs=1.01 / 128)
    plain = load_dataset(folder_of(tmp_path / "plain"))
    assert find_screen_crop(plain, tmp_path / "cache") is None


def test_the_cache_keeps_every_form_apart(tmp_path: Path) -> None:
    dataset, cache = load_dataset(folder_of(tmp_path / "images")), tmp_path / "cache"
    forms = [WHOLE, Geometry("letterbox"), Geometry(region="lesion"), Geometry(region="both")]
    found = [load_images(dataset, 16, cache, form) for form in forms]
    assert [images.shape for images in found] == [(24, 16, 16)] * 3 + [(24, 2, 16, 16)]
    assert len(list((cache / "images").glob("*.npy"))) == 4
    masks = load_masks(dataset, 16, cache, Geometry(region="lesion"))
    assert masks is not None
    # The mask is cut and moved as the image is: the lesion takes a quarter, in the middle.
    assert masks[:, 6:10, 6:10].min() == 255
    assert masks[:, :3].max() == 0
    # Another mask is another file, for it is another region.
    path = tmp_path / "images" / "benign" / "benign (0)_mask.png"
    Image.fromarray(np.full((64, 96), 255, dtype=np.uint8)).save(path)
    again = load_images(load_dataset(DatasetSection(source="busi", path=str(tmp_path / "images"))),
                        16, cache, Geometry(region="lesion"))  # fmt: skip
    assert not np.array_equal(again[0], found[2][0])
    np.testing.assert_array_equal(again[1:], found[2][1:])


def test_a_region_that_gives_the_class_away_is_refused(tmp_path: Path) -> None:
    leaky = load_dataset(folder_of(tmp_path / "three", normal=True))
    lesions = find_lesions(leaky, tmp_path / "cache")
    assert lesions == find_lesions(leaky, tmp_path / "cache")
    with pytest.raises(InputError, match=r"tells their class \(benign 100.0%.*normal 0.0%"):
        check_lesions(leaky, lesions)
    two = load_dataset(folder_of(tmp_path / "two"))
    places = find_lesions(two, tmp_path / "cache")
    assert check_lesions(two, places) == []
    with pytest.raises(InputError, match="need lesion masks or boxes"):
        check_lesions(two, [None] * len(two))
    (said,) = check_lesions(two, [None, *places[1:12], None, *places[13:]])
    assert said.startswith("2 of 24 images have no lesion")


def test_boxes_of_busbra_stand_in_for_masks(tmp_path: Path) -> None:
    (tmp_path / "Images").mkdir()
    rows = ["ID,Case,Pathology,Width,Height,BBOX"]
    for index, label in enumerate(("benign", "malignant") * 2):
        Image.fromarray(noise(50, 40, index)).save(tmp_path / "Images" / f"bus_{index}-l.png")
        # The table is about the originals, which were twice as large.
        rows.append(f'bus_{index}-l,{index},{label},80,100,"[20,30,40,50]"')
    (tmp_path / "bus_data.csv").write_text("\n".join(rows))
    dataset = load_dataset(DatasetSection(source="busbra", path=str(tmp_path)))
    assert list(dataset.lesions()) == [Box(0.25, 0.3, 0.75, 0.8)] * 4
    assert dataset.lesions_digest is not None
    (tmp_path / "bus_data.csv").write_text("\n".join(rows).replace("[20,30,40,50]", "[20,30]"))
    with pytest.raises(InputError, match=r"has the BBOX '\[20,30\]'"):
        load_dataset(DatasetSection(source="busbra", path=str(tmp_path)))
