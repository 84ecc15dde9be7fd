"""Images here are generated: smooth shapes under speckle. One test reads real images if present."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

from busi_search.data.duplicates import (
    DuplicatePair,
    conflicting_groups,
    find_duplicate_pairs,
    find_duplicates,
    find_twins,
    group_images,
)

Grey = npt.NDArray[np.uint8]


def make_scan(seed: int, shape: tuple[int, int] = (160, 160), shapes_seed: int = 0) -> Grey:
    """A scan whose anatomy is given by shapes_seed (0: by seed) and whose speckle is by seed."""
    shapes = np.random.default_rng(shapes_seed or seed).normal(size=shape)
    shapes = gaussian_filter(shapes, max(shape) / 10)
    speckle = gaussian_filter(np.random.default_rng(seed).normal(size=shape), max(shape) / 100)
    grey = 110 + 40 * shapes / shapes.std() + 20 * speckle / speckle.std()
    return np.asarray(grey.clip(0, 255), dtype=np.uint8)


def jpeg(image: Grey, quality: int) -> Grey:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def resize(image: Grey, width: int, height: int) -> Grey:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


def write(image: Grey) -> Grey:
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    draw.text((20, 110), "RT UOQ", fill=255, font_size=14)
    for x, y in ((40, 40), (110, 60)):
        draw.line((x - 4, y, x + 4, y), fill=255)
        draw.line((x, y - 4, x, y + 4), fill=255)
    draw.line((40, 40, 110, 60), fill=230)
    return np.asarray(canvas)


def cover(image: Grey) -> Grey:
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    for x, y, grey in ((10, 20, 0), (80, 60, 255), (30, 115, 90)):
        draw.rectangle((x, y, x + 58, y + 21), fill=grey)
        draw.text((x + 4, y + 4), "MASS 1 cm", fill=128, font_size=10)
    return np.asarray(canvas)


def show_on_screen(image: Grey) -> Grey:
    """A screen of 320 x 240 pixels with writing and a scale; the picture is a third of it."""
    screen = Image.new("L", (320, 240), 40)
    draw = ImageDraw.Draw(screen)
    for row, text in enumerate(("GAIN 45", "DEPTH 4 cm", "L12-5", "MI 1.1", "BREAST")):
        draw.text((4, 8 + 44 * row), text, fill=255 - 20 * row, font_size=16)
        draw.rectangle((250, 6 + 44 * row, 300, 30 + 44 * row), fill=90 + 30 * row)
    screen.paste(Image.fromarray(resize(image, 160, 160)), (80, 40))
    return np.asarray(screen)


ALTERATIONS: dict[str, Callable[[Grey], Grey]] = {
    "exact copy": np.copy,
    "jpeg 90": lambda image: jpeg(image, 90),
    "jpeg 40": lambda image: jpeg(image, 40),
    "half size": lambda image: resize(image, 80, 80),
    "one and a half": lambda image: resize(image, 240, 240),
    "other aspect": lambda image: resize(image, 200, 150),
    "cropped 2 % per side": lambda image: image[3:-3, 3:-3],
    "cropped 8 % per side": lambda image: image[13:-13, 13:-13],
    "cropped on one side": lambda image: image[:, 20:],
    "cropped and brought to size": lambda image: resize(image[10:-4, 5:-12], 160, 160),
    "brighter": lambda image: (40 + image * 0.8).astype(np.uint8),
    "gamma": lambda image: (255 * (image / 255) ** 1.4).astype(np.uint8),
    "text and calipers": write,
    "turned by 3 degrees": lambda image: np.asarray(
        Image.fromarray(image).rotate(3, Image.Resampling.BICUBIC)
    ),
    "mirrored": lambda image: image[:, ::-1],
    "bottom cut by 30 %": lambda image: image[: round(0.7 * len(image))],
    "left cut by 30 %": lambda image: image[:, round(0.3 * image.shape[1]) :],
    "black borders of 30 %": lambda image: np.pad(image, 48),
    "boxes over 15 %": cover,
    "gamma 4": lambda image: np.rint(255 * (image / 255) ** 4).astype(np.uint8),
    "a tenth as bright": lambda image: np.rint(image / 10).astype(np.uint8),
    "several": lambda image: jpeg(write((30 + image[5:-9, 8:-4] * 0.8).astype(np.uint8)), 60),
}


@pytest.fixture(scope="module")
def scans() -> list[Grey]:
    return [make_scan(seed) for seed in range(1, 25)]


@pytest.mark.parametrize("name", ALTERATIONS)
def test_altered_copy_is_joined_with_its_source_and_nothing_else(
    name: str, scans: list[Grey]
) -> None:
    sources = [3, 11, 17]
    images = scans + [ALTERATIONS[name](scans[source]) for source in sources]
    assert find_duplicates(images).tolist() == [*range(len(scans)), *sources]


def test_only_mirrored_twins_are_called_so(scans: list[Grey]) -> None:
    pairs = find_duplicate_pairs([scans[0], scans[1], scans[0][:, ::-1], jpeg(scans[1], 80)])
    assert [(pair.first, pair.second, pair.mirrored) for pair in pairs] == [
        (0, 2, True),
        (1, 3, False),
    ]


def test_strangers_on_one_screen_are_no_twins(scans: list[Grey]) -> None:
    screens = [show_on_screen(scan) for scan in scans[:12]]
    twins = [jpeg(show_on_screen(scans[4]), 70), show_on_screen(jpeg(scans[7], 60)), scans[9]]
    assert find_duplicates(screens + twins).tolist() == [*range(12), 4, 7, 9]


def test_distinct_images_are_not_joined(scans: list[Grey]) -> None:
    assert find_duplicate_pairs(scans) == []


@pytest.mark.parametrize("pixels", [28, 64, 160])
def test_same_anatomy_under_other_speckle_is_another_scan(pixels: int) -> None:
    images = [make_scan(seed, (pixels, pixels), shapes_seed=99) for seed in range(1, 13)]
    assert find_duplicates(images).tolist() == list(range(12))


@pytest.mark.parametrize("pixels", [28, 64])
def test_small_images(pixels: int) -> None:
    images = [make_scan(seed, (pixels, pixels)) for seed in range(1, 41)]
    images += [jpeg(images[7], 90), resize(images[30][1:, 1:], pixels, pixels)]
    assert find_duplicates(np.stack(images)).tolist() == [*range(40), 7, 30]


def test_groups_are_the_same_in_any_order(scans: list[Grey]) -> None:
    images = [*scans, jpeg(scans[2], 50), scans[2][8:, 8:], scans[5].copy(), write(scans[9])]
    order = np.random.default_rng(0).permutation(len(images))
    groups = find_duplicates(images)
    shuffled = find_duplicates([images[index] for index in order])
    together = groups[order][:, None] == groups[order]
    assert np.array_equal(together, shuffled[:, None] == shuffled)


def test_pairs_are_ordered_and_exact_copies_have_similarity_one(scans: list[Grey]) -> None:
    pairs = find_duplicate_pairs([scans[0], scans[1], scans[0].copy(), jpeg(scans[1], 90)])
    assert [(pair.first, pair.second) for pair in pairs] == [(0, 2), (1, 3)]
    assert pairs[0].similarity == 1
    assert 0.9 < pairs[1].similarity <= 1


def test_many_copies_of_one_scan_are_one_group(scans: list[Grey]) -> None:
    copies = [jpeg(scans[0], quality) for quality in range(40, 95, 2)]
    groups = find_duplicates([*scans[1:], *copies])
    assert groups.tolist() == [*range(23), *[23] * len(copies)]


@pytest.mark.parametrize("num_images", [0, 1, 2])
def test_few_images(num_images: int, scans: list[Grey]) -> None:
    groups = find_duplicates(scans[:num_images])
    assert groups.dtype == np.int64
    assert groups.tolist() == list(range(num_images))
    assert find_duplicates(np.zeros((num_images, 28, 28), np.uint8)).tolist() == [0] * num_images


def test_blank_images_join_only_if_equal(scans: list[Grey]) -> None:
    labelled = []
    for text in ("LEFT", "RIGHT"):
        canvas = Image.new("L", (160, 160))
        ImageDraw.Draw(canvas).text((20, 20), text, fill=255)
        labelled.append(np.asarray(canvas))
    levels = [np.full((160, 160), grey, np.uint8) for grey in (0, 1, 128, 0)]
    groups = find_duplicates([*levels, *labelled, scans[0]])
    assert groups.tolist() == [0, 1, 2, 0, 4, 5, 6]


def test_colour_images_are_refused() -> None:
    with pytest.raises(ValueError, match="convert it first"):
        find_duplicate_pairs([np.zeros((8, 8, 3), np.uint8)])


def test_twins_between_two_sets_of_images(scans: list[Grey]) -> None:
    known = scans[:12]
    # As BreastMNIST was made from BUSI: the middle square, much reduced.
    reduced = resize(make_scan(3, (160, 200))[:, 20:180], 28, 28)
    queries = [scans[20], jpeg(scans[4], 80), scans[7][10:, :-20], scans[9], scans[9], reduced]
    known.append(make_scan(3, (160, 200)))
    pairs = find_twins(queries, known)
    assert [(pair.first, pair.second) for pair in pairs] == [
        (1, 4),
        (2, 7),
        (3, 9),
        (4, 9),
        (5, 12),
    ]
    assert [pair.similarity for pair in pairs[2:4]] == [1, 1]
    assert find_twins([], known) == find_twins(queries, []) == []


def test_queries_are_not_twins_of_one_another(scans: list[Grey]) -> None:
    assert find_twins([scans[0], jpeg(scans[0], 90)], [scans[1]]) == []


def test_groups_are_transitive_and_named_by_their_smallest_index() -> None:
    pairs = [DuplicatePair(4, 5, 0.99), DuplicatePair(1, 4, 0.97), DuplicatePair(0, 3, 1.0)]
    assert group_images(6, pairs).tolist() == [0, 1, 2, 0, 1, 1]


def test_weak_links_do_not_chain() -> None:
    chain = [DuplicatePair(index, index + 1, 0.93) for index in range(99)]
    assert np.bincount(group_images(100, chain)).max() == 2
    assert group_images(2, chain[:1]).tolist() == [0, 0]


def test_conflicting_groups() -> None:
    groups = np.array([0, 0, 2, 2, 4, 5, 5])
    labels = np.array([1, 2, 0, 0, 1, 0, 1])
    assert conflicting_groups(groups, labels).tolist() == [0, 5]
    assert conflicting_groups(groups[:0], labels[:0]).tolist() == []


def find_real_images() -> Path:
    beside = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("BUSI_SEARCH_TEST_DATA", beside)) / "busi"
    as_kaggle_ships_it = folder / "Dataset_BUSI_with_GT"
    return as_kaggle_ships_it if as_kaggle_ships_it.is_dir() else folder


@pytest.mark.skipif(not find_real_images().is_dir(), reason="real BUSI images are not here")
def test_known_twins_of_real_busi() -> None:
    def load(name: str) -> Grey:
        return np.asarray(Image.open(find_real_images() / f"{name}.png").convert("L"))

    twins = ["malignant/malignant (11)", "malignant/malignant (113)"]  # cropped to two thirds
    twins += ["malignant/malignant (80)", "malignant/malignant (81)"]  # cropped on one side
    twins += ["benign/benign (437)", "normal/normal (34)"]  # the same scan in two classes
    others = [f"benign/benign ({number})" for number in (204, 206)]  # two scans of one lesion
    others += [f"malignant/malignant ({number})" for number in (139, 207)]  # the same
    groups = find_duplicates([load(name) for name in twins + others])
    assert groups.tolist() == [0, 0, 2, 2, 4, 4, 6, 7, 8, 9]
