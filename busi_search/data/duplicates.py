"""Find images that show the same scan, from the pixels alone.

Every image first names the few others it could be a copy or a crop of (correlation of
contrast-normalised thumbnails). Each such pair is then registered by shift and scale and judged by
its texture: speckle is a fingerprint, so two copies of one scan agree in nearly every block of the
picture, while two scans of one lesion do not. See ``docs/explanation/duplicates.md``.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor
from torch.nn import functional

Images = Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8]


@dataclass(frozen=True)
class DuplicatePair:
    """Two images of one scan: their indices (``first < second``) and how alike, in (0, 1]."""

    first: int
    second: int
    similarity: float


@dataclass(frozen=True)
class _Detail:
    """How a pair is judged, given the sharpness that both of its images have."""

    min_pixels: int  # the shorter side of the smaller image is at least this long
    pixels: int  # what both images are reduced to, so that neither is sharper
    canvas_pixels: int  # the grid they are compared on
    texture_pixels: float  # what is wider than this (a Gaussian's sigma) is not texture
    blocks: int  # per side
    min_similarity: float


_DETAILS = (
    _Detail(112, 128, 128, 3.0, 8, 0.92),
    _Detail(56, 64, 64, 3.0, 8, 0.93),
    _Detail(0, 28, 64, 6.0, 4, 0.95),
)

# Parts of an image (scale x, scale y, shift x, shift y; an image spans -1 to 1) that may be all
# that its twin shows. BUSI's crops are widest sideways, where the sector's black corners were cut.
_VIEWS = (
    *((1.0, 1.0, 0.0, 0.0), (0.92, 0.92, 0.0, 0.0), (0.85, 0.85, 0.0, 0.0)),
    *((1.0, 0.92, 0.0, -0.08), (1.0, 0.92, 0.0, 0.08)),
    *((0.85, 1.0, -0.15, 0.0), (0.85, 1.0, 0.0, 0.0), (0.85, 1.0, 0.15, 0.0)),
    *((0.72, 1.0, -0.14, 0.0), (0.72, 1.0, 0.0, 0.0), (0.72, 1.0, 0.14, 0.0)),
)

_THUMB_PIXELS = 64
_DESCRIPTOR_PIXELS = 20
_NUM_CANDIDATES = 8
_MIN_CANDIDATE_SIMILARITY = 0.5
_MIN_COARSE_SIMILARITY = 0.75
_MIN_TEXTURED_BLOCKS = 0.2
_STRONG_SIMILARITY = 0.95
_IMAGES_PER_BLOCK = 512
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
        for i, j, score in _alike(images, own, images, own):
            pairs.append(DuplicatePair(min(i, j), max(i, j), score))
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
    found = {(ours.originals[key], theirs.originals[key]): 1.0 for key in equal}
    with torch.inference_mode(), _one_thread():
        # Either of the two may be a part of the other.
        for i, j, score in _alike(queries, ours, known, theirs):
            found[i, j] = max(score, found.get((i, j), 0.0))
        for j, i, score in _alike(known, theirs, queries, ours):
            found[i, j] = max(score, found.get((i, j), 0.0))
    copies = [(copy, j, score) for (i, j), score in found.items() for copy in ours.copies_of(i)]
    every = [*((i, j, score) for (i, j), score in found.items()), *copies]
    return [DuplicatePair(i, j, score) for i, j, score in sorted(every)]


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
        sides: their shorter sides (K,).
        thumbs: whole images, whatever their shape, as (K, 1, 64, 64) uint8.
    """

    originals: dict[tuple[tuple[int, ...], bytes], int]
    copies: dict[int, int]
    kept: list[int]
    sides: Tensor
    thumbs: Tensor

    def copies_of(self, index: int) -> list[int]:
        return [copy for copy, original in self.copies.items() if original == index]


def _survey(images: Images) -> _Survey:
    originals: dict[tuple[tuple[int, ...], bytes], int] = {}
    copies: dict[int, int] = {}
    sides, thumbs = [], []
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
        sides.append(min(image.shape))
        thumbs.append(np.asarray(_resize(image, _THUMB_PIXELS)))
    small = np.stack(thumbs) if thumbs else np.zeros((0, _THUMB_PIXELS, _THUMB_PIXELS), np.uint8)
    return _Survey(
        originals,
        copies,
        list(originals.values()),
        torch.tensor(sides, dtype=torch.int64),
        torch.from_numpy(small)[:, None],
    )


def _alike(
    wholes: Images, whole: _Survey, others: Images, part: _Survey
) -> Iterator[tuple[int, int, float]]:
    """Indices and similarity of images that equal, up to registration, a part of another."""
    first, second, views = _candidates(whole.thumbs, part.thumbs, same=whole is part)
    smaller = torch.minimum(whole.sides[first], part.sides[second])
    for detail, chosen in _by_detail(smaller):
        for start in range(0, len(chosen), _PAIRS_PER_BATCH):
            batch = chosen[start : start + _PAIRS_PER_BATCH]
            left = [whole.kept[index] for index in first[batch].tolist()]
            right = [part.kept[index] for index in second[batch].tolist()]
            scores = _texture_similarity(
                [wholes[index] for index in left],
                [others[index] for index in right],
                views[batch],
                detail,
            )
            for i, j, score in zip(left, right, scores.tolist(), strict=True):
                if score >= detail.min_similarity:
                    yield i, j, score


def _candidates(thumbs: Tensor, others: Tensor, *, same: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Indices first (P,) and second (P,), and the view (P, 4) of second that looks like first.

    ``same``: both are one set, in which an image is no candidate of itself and a pair counts once.
    Compared block by block, so memory grows with N and not with N squared.
    """
    starts = range(0, len(thumbs), _IMAGES_PER_BLOCK)
    whole = [_descriptors(thumbs[at : at + _IMAGES_PER_BLOCK], _VIEWS[:1])[0] for at in starts]
    scores = torch.full((len(thumbs), _NUM_CANDIDATES), -1.0)
    seconds = torch.zeros(scores.shape, dtype=torch.int64)
    views = torch.zeros(scores.shape, dtype=torch.int64)
    for start in range(0, len(others), _IMAGES_PER_BLOCK):
        parts = _descriptors(others[start : start + _IMAGES_PER_BLOCK], _VIEWS)
        for row, descriptors in zip(starts, whole, strict=True):
            rows = slice(row, row + _IMAGES_PER_BLOCK)
            score, view = torch.stack([descriptors @ part.T for part in parts]).max(0)
            if same and row == start:
                score.fill_diagonal_(-1)
            score, other = score.topk(min(_NUM_CANDIDATES, parts.shape[1]), 1)
            score, order = torch.cat([scores[rows], score], 1).topk(_NUM_CANDIDATES, 1)
            scores[rows] = score
            views[rows] = torch.cat([views[rows], view.gather(1, other)], 1).gather(1, order)
            seconds[rows] = torch.cat([seconds[rows], other + start], 1).gather(1, order)
    first, slot = (scores >= _MIN_CANDIDATE_SIMILARITY).nonzero(as_tuple=True)
    second, view, score = (table[first, slot] for table in (seconds, views, scores))
    # A pair found from both sides is kept once, with the view that fits better.
    best: dict[tuple[int, int], int] = {}
    for position in score.argsort(stable=True).tolist():
        i, j = int(first[position]), int(second[position])
        best[(min(i, j), max(i, j)) if same else (i, j)] = position
    keep = torch.tensor(sorted(best.values()), dtype=torch.int64)
    return first[keep], second[keep], torch.tensor(_VIEWS)[view[keep]]


def _resize(image: npt.NDArray[np.uint8], pixels: int) -> Image.Image:
    return Image.fromarray(image).resize((pixels, pixels), Image.Resampling.BILINEAR)


def _descriptors(thumbs: Tensor, views: Sequence[tuple[float, ...]]) -> Tensor:
    """What is seen in each view of thumbnails, as unit vectors (V, B, 400); zero if nothing is."""
    detail = _smooth(_normalise(thumbs.float() / 255, 4.0), 1.5)
    parts = torch.stack([_look(detail, torch.tensor([view] * len(detail)))[0] for view in views])
    vectors = functional.adaptive_avg_pool2d(parts[:, :, 0], _DESCRIPTOR_PIXELS).flatten(2)
    vectors = vectors - vectors.mean(2, keepdim=True)
    unit: Tensor = vectors / vectors.norm(dim=2, keepdim=True).clamp(min=1e-3)
    return unit


def _smooth(images: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, 1, H, H); sigma in pixels, weights renormalised at the border."""
    at = torch.arange(images.shape[-1], dtype=torch.float32)
    # As a matrix product: many times faster than a convolution with one channel.
    kernel = torch.exp(-((at - at[:, None]) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum(1, keepdim=True)
    return kernel @ images @ kernel.T


def _normalise(images: Tensor, sigma: float) -> Tensor:
    """Local contrast normalisation of (B, 1, H, W) in [0, 1]: brightness and gain drop out."""
    detail = images - _smooth(images, sigma)
    return detail / (_smooth(detail * detail, sigma).clamp(min=0).sqrt() + 0.03)


def _centres(size: int) -> Tensor:
    return (torch.arange(size) + 0.5) * 2 / size - 1


def _look(images: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 1, H, H) seen through views (B, 4), and where (0 or 1) there was something."""
    at = _centres(images.shape[-1])
    x = (views[:, :1] * at + views[:, 2:3])[:, None].expand(-1, len(at), -1)
    y = (views[:, 1:2] * at + views[:, 3:])[:, :, None].expand(-1, -1, len(at))
    inside = ((x.abs() <= 1) & (y.abs() <= 1)).float()[:, None]
    grid = torch.stack([x, y], -1)
    seen = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return seen, inside


def _register(fixed: Tensor, moving: Tensor, views: Tensor, num_steps: int) -> Tensor:
    """Views (B, 4) improved until moving seen through them matches fixed, both (B, 1, H, H).

    Gauss-Newton on the squared difference (Lucas and Kanade 1981), with Cauchy weights so that
    burned-in text, which only one of the two has, does not pull.
    """
    size = fixed.shape[-1]
    at = _centres(size)
    border = functional.pad(torch.ones(1, 1, size - 2, size - 2), (1, 1, 1, 1))
    for _ in range(num_steps):
        seen, inside = _look(moving, views)
        slope_y, slope_x = torch.gradient(seen, spacing=2 / size, dim=(2, 3))
        slope_x = slope_x / views[:, 0].view(-1, 1, 1, 1)
        slope_y = slope_y / views[:, 1].view(-1, 1, 1, 1)
        slopes = [slope_x * at, slope_y * at[:, None], slope_x, slope_y]
        jacobian = torch.stack(slopes, 1).flatten(2)
        error = fixed - seen
        weights = (inside * border / (1 + error**2)).flatten(1)[:, None]
        weighted = jacobian * weights
        curvature = weighted @ jacobian.mT + 0.01 * size * torch.eye(4)
        step = torch.linalg.solve(curvature, weighted @ error.flatten(1)[..., None])[..., 0]
        views = views + step.clamp(-0.1, 0.1)
        views = torch.cat([views[:, :2].clamp(0.55, 1.8), views[:, 2:].clamp(-0.6, 0.6)], 1)
    return views


def _texture_similarity(
    left: Sequence[npt.NDArray[np.uint8]],
    right: Sequence[npt.NDArray[np.uint8]],
    views: Tensor,
    detail: _Detail,
) -> Tensor:
    """Median over blocks of the correlation of texture after registration, (B,) in [-1, 1].

    -1 where too few blocks have any texture, or where already coarse structure does not agree.
    """

    def canvas(images: Sequence[npt.NDArray[np.uint8]], pixels: int) -> Tensor:
        small = [np.asarray(_resize(image, detail.pixels)) for image in images]
        grids = np.stack([np.asarray(_resize(image, pixels)) for image in small])
        return torch.from_numpy(grids)[:, None].float() / 255

    similarity = torch.full((len(left),), -1.0)
    remaining = torch.arange(len(left))
    # The last blur takes out what JPEG and resampling change; frames of a sweep differ beyond it.
    for pixels, sigma, blur, num_steps, num_blocks in (
        (32, 5.0, 1.2, 10, 4),
        (64, 5.0, 1.5, 6, 4),
        (detail.canvas_pixels, detail.texture_pixels, 1.0, 4, detail.blocks),
    ):
        fixed, moving = (
            _smooth(_normalise(canvas([side[k] for k in remaining], pixels), sigma), blur)
            for side in (left, right)
        )
        views = _register(fixed, moving, views, num_steps)
        scores = _block_similarity(fixed, *_look(moving, views), num_blocks)
        agree = scores >= _MIN_COARSE_SIMILARITY
        remaining, views, scores = remaining[agree], views[agree], scores[agree]
        if not len(remaining):
            return similarity
    similarity[remaining] = scores
    return similarity


def _block_similarity(fixed: Tensor, moving: Tensor, inside: Tensor, num_blocks: int) -> Tensor:
    def pool(values: Tensor) -> Tensor:
        return functional.adaptive_avg_pool2d(values * inside, num_blocks).flatten(1)

    covered = pool(torch.ones_like(fixed)).clamp(min=1e-6)
    mean_f, mean_m = pool(fixed) / covered, pool(moving) / covered
    variance_f = pool(fixed**2) / covered - mean_f**2
    variance_m = pool(moving**2) / covered - mean_m**2
    covariance = pool(fixed * moving) / covered - mean_f * mean_m
    correlation = covariance / (variance_f * variance_m).clamp(min=1e-8).sqrt()
    textured = (covered > 0.6) & (variance_f > 0.02) & (variance_m > 0.02)
    median = correlation.masked_fill(~textured, torch.nan).nanmedian(1).values
    enough = textured.float().mean(1) >= _MIN_TEXTURED_BLOCKS
    return torch.where(enough, median.clamp(max=1), -torch.ones_like(median))


def _by_detail(smaller: Tensor) -> Iterator[tuple[_Detail, Tensor]]:
    """The positions of the pairs that each level of detail is to judge."""
    left = torch.ones_like(smaller, dtype=torch.bool)
    for detail in _DETAILS:
        chosen = left & (smaller >= detail.min_pixels)
        left &= ~chosen
        yield detail, chosen.nonzero()[:, 0]
