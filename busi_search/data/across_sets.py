"""Images that are in two sets: at another size, under another name, cut or written on."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from busi_search.data.dataset import ImageDataset
from busi_search.data.duplicates import find_twins
from busi_search.data.file_cache import build_once
from busi_search.data.groups import DETECTOR_VERSION
from busi_search.data.images import GreyImage
from busi_search.data.known_images import small_copy
from busi_search.files import check_free_space

# Enough to look at; the JSON has all.
SHOWN_PAIRS = 5


@dataclass(frozen=True)
class SharedImages:
    """What two sets have in common.

    Attributes:
        first: place of a set in the list of sets.
        second: place of the other.
        pairs: for each pair of images of one scan, its names in the two sets.
        num_first, num_second: number of images of each set that are also in the other.
        labels: number of pairs by the two names of their classes.
    """

    first: int
    second: int
    pairs: tuple[tuple[str, str], ...]
    num_first: int
    num_second: int
    labels: tuple[tuple[str, str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """Return it as ``data check --json`` prints it."""
        return {
            "first": self.first,
            "second": self.second,
            "num_first": self.num_first,
            "num_second": self.num_second,
            "labels": [list(row) for row in self.labels],
            "pairs": [list(pair) for pair in self.pairs],
        }


def find_shared_images(sets: Sequence[ImageDataset], cache: Path) -> list[SharedImages]:
    """Compare each of several sets with each other one.

    Two images are one scan if their content is equal or the twin finder says so, whatever their
    sizes (28 px against 500 px). Simulated sets are compared by content only.

    Args:
        sets: two or more sets.
        cache: folder where the pairs are kept for the next time.

    Returns:
        One entry for every two sets, in their order.

    Raises:
        InputError: an image cannot be read.
        BusiSearchError: the disk has no room.
    """
    found = []
    small: dict[int, list[GreyImage]] = {}
    for first, second in combinations(range(len(sets)), 2):
        one, other = sets[first], sets[second]
        pairs = _pairs_of(first, second, sets, small, cache)
        labels = Counter(
            (one.class_names[one.labels[i]], other.class_names[other.labels[j]]) for i, j in pairs
        )
        found.append(
            SharedImages(
                first,
                second,
                pairs=tuple((one.paths[i], other.paths[j]) for i, j in pairs),
                num_first=len({i for i, _ in pairs}),
                num_second=len({j for _, j in pairs}),
                labels=tuple((a, b, number) for (a, b), number in sorted(labels.items())),
            )
        )
    return found


def _pairs_of(
    first: int,
    second: int,
    sets: Sequence[ImageDataset],
    small: dict[int, list[GreyImage]],
    cache: Path,
) -> list[tuple[int, int]]:
    """Pairs of positions in two sets, found once and then read."""
    one, other = sets[first], sets[second]
    name = f"{one.fingerprint}-{other.fingerprint}-v{DETECTOR_VERSION}.json"
    target = cache / "shared_images" / name

    def read() -> list[tuple[int, int]] | None:
        try:
            return [(int(i), int(j)) for i, j in json.loads(target.read_text())]
        except (OSError, ValueError, TypeError):
            return None

    def write(path: Path) -> None:
        for place in (first, second):
            if place not in small:
                small[place] = [small_copy(image) for image in sets[place].images()]
        path.write_text(json.dumps(_compare(one, other, small[first], small[second])))

    return build_once(target, read, write, make_room=lambda folder: check_free_space(folder, 0))


def _compare(
    one: ImageDataset,
    other: ImageDataset,
    ours: Sequence[GreyImage],
    theirs: Sequence[GreyImage],
) -> list[tuple[int, int]]:
    """Pairs of equal content, and of one scan among the images that have no equal."""
    at: dict[str, list[int]] = {}
    for j, digest in enumerate(other.digests):
        at.setdefault(digest, []).append(j)
    pairs = {(i, j) for i, digest in enumerate(one.digests) for j in at.get(digest, ())}
    if not (one.simulated or other.simulated):
        equal = {i for i, _ in pairs}
        rest = [i for i in range(len(ours)) if i not in equal]
        twins = find_twins([ours[i] for i in rest], theirs) if rest else []
        pairs |= {(rest[pair.first], pair.second) for pair in twins}
    return sorted(pairs)
