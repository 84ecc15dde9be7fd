"""Find images that show the same scan, from the pixels alone.

Every image first names the few others it could be a copy or a crop of (correlation of
contrast-normalised thumbnails). Each such pair is then registered by shift and scale and judged by
its texture: speckle is a fingerprint, so two copies of one scan agree in nearly every block of the
picture, while two scans of one lesion do not. See ``docs/explanation/duplicates.md``.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from busi_search.data.registration import by_detail, texture_similarity
from busi_search.data.scan_area import resize, scan_area
from busi_search.data.screen_frames import find_frames
from busi_search.data.twin_candidates import THUMB_PIXELS, find_candidates

Images = Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DuplicatePair:
    """Two images of one scan.

    Attributes:
        first: index of an image, the smaller of the two where both are of one set.
        second: index of the other image.
        similarity: how alike they are, in (0, 1].
        mirrored: whether one shows the scan as the other would in a mirror, left to right.
    """

    first: int
    second: int
    similarity: float
    mirrored: bool = False


_STRONG_SIMILARITY = 0.95
_PAIRS_PER_BATCH = 64


def find_duplicate_pairs(images: Images) -> list[DuplicatePair]:
    """Pairs of images that show the same scan, also if re-encoded, rescaled, cropped or written on.

    ``images`` are N grey images (H, W) uint8 whose sizes may differ, or one array (N, H, W). Each
    is looked at once, in order, and those that may have a twin again. Equal bytes give similarity
    1; otherwise it is the median over blocks of the correlation of texture after registration. Not
    every pair of a group is listed, only enough to connect it. Raises ``ValueError`` for an image
    that is not (H, W) uint8.
    """
    own = _survey(images)
    pairs = [DuplicatePair(original, copy, 1.0) for copy, original in own.copies.items()]
    with torch.inference_mode(), _one_thread():
        for i, j, score, mirrored in _alike(images, own, images, own):
            pairs.append(DuplicatePair(min(i, j), max(i, j), score, mirrored))
    return sorted(pairs, key=lambda pair: (pair.first, pair.second))


def find_twins(queries: Images, known: Images) -> list[DuplicatePair]:
    """Pairs of a query and a known image that show the same scan, judged as above.

    Queries are not compared with one another, nor known images, so the cost grows with the product
    of the two numbers.

    Args:
        queries: grey images (H, W) uint8.
        known: likewise; their sizes may differ from the queries' (28 px against 500 px).

    Returns:
        Pairs whose ``first`` is a position in ``queries`` and ``second`` one in ``known``, sorted.
        A query that is found has at least one pair, and may have one with each of several copies.

    Raises:
        ValueError: an image is not (H, W) uint8.
    """
    ours, theirs = _survey(queries), _survey(known)
    equal = ours.originals.keys() & theirs.originals.keys()
    pairs = [DuplicatePair(ours.originals[key], theirs.originals[key], 1.0) for key in equal]
    with torch.inference_mode(), _one_thread():
        # Either of the two may be a part of the other.
        for i, j, score, mirrored in _alike(queries, ours, known, theirs):
            pairs.append(DuplicatePair(i, j, score, mirrored))
        for j, i, score, mirrored in _alike(known, theirs, queries, ours):
            pairs.append(DuplicatePair(i, j, score, mirrored))
    best = {(pair.first, pair.second): pair for pair in sorted(pairs, key=lambda p: p.similarity)}
    for copy, original in ours.copies.items():
        for (i, j), pair in list(best.items()):
            if i == original:
                best[copy, j] = replace(pair, first=copy)
    return [best[ends] for ends in sorted(best)]


def group_images(num_images: int, pairs: Sequence[DuplicatePair]) -> npt.NDArray[np.int64]:
    """Group ids (N,), each the smallest index of its group: images joined by pairs, transitively.

    Pairs of at least 0.95 join without limit. A weaker pair joins two groups only if neither was
    joined by a weak pair before (the strongest goes first), so doubtful links cannot form a chain.
    """
    strong = [pair for pair in pairs if pair.similarity >= _STRONG_SIMILARITY]
    weak = [pair for pair in pairs if pair.similarity < _STRONG_SIMILARITY]
    groups = _connect(num_images, strong)
    taken: set[int] = set()
    accepted = []
    for pair in sorted(weak, key=lambda pair: (-pair.similarity, pair.first, pair.second)):
        ends = {int(groups[pair.first]), int(groups[pair.second])}
        if len(ends) == 2 and not ends & taken:
            taken |= ends
            accepted.append(pair)
    return _connect(num_images, [*strong, *accepted])


def find_duplicates(images: Images) -> npt.NDArray[np.int64]:
    """Group ids (N,) of images that show the same scan; see `find_duplicate_pairs`."""
    return group_images(len(images), find_duplicate_pairs(images))


def conflicting_groups(
    groups: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """Sorted ids of the groups whose images have more than one label; both arguments are (N,)."""
    seen = np.unique(np.stack([groups, labels], axis=1), axis=0)
    ids, num_labels = np.unique(seen[:, 0], return_counts=True)
    return ids[num_labels > 1].astype(np.int64)


@contextmanager
def _one_thread() -> Iterator[None]:
    # These tensors are small: a second thread gains little, and waits long where cores are shared.
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)


def _connect(num_images: int, pairs: Sequence[DuplicatePair]) -> npt.NDArray[np.int64]:
    ends = np.array([(pair.first, pair.second) for pair in pairs], dtype=np.int64).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (num_images, num_images))
    if num_images == 0:
        return np.zeros(0, dtype=np.int64)
    members = connected_components(graph, directed=False)[1]
    _, smallest, member_of = np.unique(members, return_index=True, return_inverse=True)
    return smallest[member_of].astype(np.int64)


@dataclass(frozen=True)
class _Survey:
    """What one look at N images gives.

    Attributes:
        originals: of each of the K different images, digest and index of the first that has it.
        copies: index of every other image, and the index of the first that is equal.
        kept: the K indices.
        frames: where each of them shows the same screen as others, None if it does not.
        sides: the shorter sides (K,) of what each shows of a scan.
        thumbs: what each shows of a scan, whatever its shape, as (K, 1, 64, 64) uint8.
    """

    originals: dict[tuple[tuple[int, ...], bytes], int]
    copies: dict[int, int]
    kept: list[int]
    frames: list[npt.NDArray[np.bool_] | None]
    sides: Tensor
    thumbs: Tensor


def _survey(images: Images) -> _Survey:
    originals: dict[tuple[tuple[int, ...], bytes], int] = {}
    copies: dict[int, int] = {}
    of_size: dict[tuple[int, ...], list[int]] = {}
    screens: list[npt.NDArray[np.uint8]] = []
    areas: list[npt.NDArray[np.uint8]] = []
    sides: list[int] = []
    for index, image in enumerate(images):
        if image.ndim != 2 or image.dtype != np.uint8 or image.size == 0:
            raise ValueError(
                f"image {index} has shape {image.shape} and dtype {image.dtype}; "
                "find_duplicate_pairs takes grey (H, W) uint8 images: convert it first"
            )
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        original = originals.setdefault((image.shape, digest), index)
        if original != index:
            copies[index] = original
            continue
        of_size.setdefault(image.shape, []).append(len(areas))
        area = scan_area(image)
        sides.append(min(area.shape))
        areas.append(resize(area, THUMB_PIXELS))
        screens.append(resize(image, THUMB_PIXELS))
    kept = list(originals.values())
    frames: list[npt.NDArray[np.bool_] | None] = [None] * len(kept)
    for positions in of_size.values():
        found = find_frames(np.stack([screens[position] for position in positions]))
        for position, frame in zip(positions, found, strict=True):
            if frame is not None:
                area = scan_area(images[kept[position]], frame)
                frames[position], sides[position] = frame, min(area.shape)
                areas[position] = resize(area, THUMB_PIXELS)
    small = np.stack(areas) if areas else np.zeros((0, THUMB_PIXELS, THUMB_PIXELS), np.uint8)
    thumbs = torch.from_numpy(small)[:, None]
    return _Survey(originals, copies, kept, frames, torch.tensor(sides, dtype=torch.int64), thumbs)


class _Areas:
    """What each image shows of a scan; those asked for last are kept, as far as memory allows."""

    def __init__(self, images: Images, survey: _Survey, max_bytes: int = 2**28) -> None:
        self._images, self._survey, self._room = images, survey, max_bytes
        self._kept: OrderedDict[int, npt.NDArray[np.uint8]] = OrderedDict()

    def __getitem__(self, position: int) -> npt.NDArray[np.uint8]:
        if position in self._kept:
            self._kept.move_to_end(position)
            return self._kept[position]
        image = self._images[self._survey.kept[position]]
        area = scan_area(image, self._survey.frames[position])
        self._kept[position] = area
        self._room -= area.nbytes
        while self._room < 0 and len(self._kept) > 1:
            self._room += self._kept.popitem(last=False)[1].nbytes
        return area


def _alike(
    wholes: Images, whole: _Survey, others: Images, part: _Survey
) -> Iterator[tuple[int, int, float, bool]]:
    """Images that equal a part of another: both indices, the similarity, whether mirrored."""
    found = find_candidates(whole.thumbs, part.thumbs, same=whole is part)
    ours = _Areas(wholes, whole)
    theirs = ours if whole is part else _Areas(others, part)
    smaller = torch.minimum(whole.sides[found.first], part.sides[found.second])
    for detail, chosen in by_detail(smaller):
        for start in range(0, len(chosen), _PAIRS_PER_BATCH):
            batch = chosen[start : start + _PAIRS_PER_BATCH]
            firsts, seconds = found.first[batch].tolist(), found.second[batch].tolist()
            turned = found.mirrored[batch].tolist()
            left, right = [ours[k] for k in firsts], [theirs[k] for k in seconds]
            right = [
                area[:, ::-1] if turn else area for area, turn in zip(right, turned, strict=True)
            ]
            scores = texture_similarity(left, right, found.views[batch], detail).tolist()
            for i, j, score, turn in zip(firsts, seconds, scores, turned, strict=True):
                if score >= detail.min_similarity:
                    yield whole.kept[i], part.kept[j], score, turn
