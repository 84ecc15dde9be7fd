"""Which few images each image could be a copy, a crop or a mirror image of."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from busi_search.data.registration import detail_of, has_content, see

THUMB_PIXELS = 64
# Parts of an image (scale x, scale y, shift x, shift y; an image spans -1 to 1) that may be all
# that its twin shows. BUSI's crops are widest sideways, where the sector's black corners were cut.
VIEWS = (
    *((1.0, 1.0, 0.0, 0.0), (0.92, 0.92, 0.0, 0.0), (0.85, 0.85, 0.0, 0.0)),
    *((1.0, 0.92, 0.0, -0.08), (1.0, 0.92, 0.0, 0.08)),
    *((0.85, 1.0, -0.15, 0.0), (0.85, 1.0, 0.0, 0.0), (0.85, 1.0, 0.15, 0.0)),
    *((0.72, 1.0, -0.28, 0.0), (0.72, 1.0, -0.14, 0.0), (0.72, 1.0, 0.0, 0.0)),
    *((0.72, 1.0, 0.14, 0.0), (0.72, 1.0, 0.28, 0.0)),
    *(
        (1.0, 0.82, 0.0, -0.18),
        (1.0, 0.72, 0.0, -0.28),
        (1.0, 0.62, 0.0, -0.38),
        (1.0, 0.72, 0.0, 0.28),
    ),
)
_DESCRIPTOR_PIXELS = 20
_NUM_CANDIDATES = 8
_MIN_SIMILARITY = 0.5
_IMAGES_PER_BLOCK = 512
# Time grows with the number of pairs. Beyond this (20,000 images in one set) only the first views
# are looked at: the whole image, and its middle with a margin of 4 or of 8 % cut off.
MAX_PAIRS_IN_ALL_VIEWS = 20_000**2
FEW_VIEWS = 3


@dataclass(frozen=True)
class Candidates:
    """P pairs that may show one scan.

    Attributes:
        first: (P,) indices of the whole images.
        second: (P,) indices of those of which a part looks alike.
        views: (P, 2, 3) that part, as of `torch.nn.functional.affine_grid`.
        mirrored: (P,) whether second is to be mirrored left to right before.
    """

    first: Tensor
    second: Tensor
    views: Tensor
    mirrored: Tensor


def find_candidates(thumbs: Tensor, others: Tensor, *, same: bool) -> Candidates:
    """Pairs of two sets of thumbnails, each (N, 1, 64, 64) uint8.

    ``same``: both are one set, in which an image is no candidate of itself and a pair counts once.
    Compared block by block, so memory grows with N and not with N squared.
    """
    shown = VIEWS if len(thumbs) * len(others) <= MAX_PAIRS_IN_ALL_VIEWS else VIEWS[:FEW_VIEWS]
    starts = range(0, len(thumbs), _IMAGES_PER_BLOCK)
    wholes = [_descriptors(thumbs[at : at + _IMAGES_PER_BLOCK], VIEWS[:1])[:, 0] for at in starts]
    scores = torch.full((len(thumbs), _NUM_CANDIDATES), -1.0)
    seconds = torch.zeros(scores.shape, dtype=torch.int64)
    views = torch.zeros(scores.shape, dtype=torch.int64)
    mirrored = torch.zeros(scores.shape, dtype=torch.bool)
    for start in range(0, len(others), _IMAGES_PER_BLOCK):
        even, odd = _descriptors(others[start : start + _IMAGES_PER_BLOCK], shown)
        for row, (whole_even, whole_odd) in zip(starts, wholes, strict=True):
            rows = slice(row, row + _IMAGES_PER_BLOCK)
            score, view = torch.full((len(whole_even), even.shape[1]), -2.0), None
            view = torch.zeros(score.shape, dtype=torch.int64)
            for number in range(len(shown)):
                # Mirroring turns the sign of the odd parts' product: the better of the two counts.
                value = torch.addmm((whole_odd @ odd[number].T).abs_(), whole_even, even[number].T)
                better = value > score
                view[better] = number
                score = torch.maximum(score, value)
            if same and row == start:
                score.fill_diagonal_(-1)
            score, other = score.topk(min(_NUM_CANDIDATES, score.shape[1]), 1)
            view = view.gather(1, other)
            turned = (odd[view, other] * whole_odd[:, None]).sum(2) < 0
            score, order = torch.cat([scores[rows], score], 1).topk(_NUM_CANDIDATES, 1)
            scores[rows] = score
            for table, new in ((views, view), (seconds, other + start), (mirrored, turned)):
                table[rows] = torch.cat([table[rows], new], 1).gather(1, order)
    first, slot = (scores >= _MIN_SIMILARITY).nonzero(as_tuple=True)
    second, view, score, turned = (
        table[first, slot] for table in (seconds, views, scores, mirrored)
    )
    # A pair found from both sides is kept once, with the view that fits better.
    best: dict[tuple[int, int], int] = {}
    for position in score.argsort(stable=True).tolist():
        i, j = int(first[position]), int(second[position])
        best[(min(i, j), max(i, j)) if same else (i, j)] = position
    keep = torch.tensor(sorted(best.values()), dtype=torch.int64)
    return Candidates(first[keep], second[keep], _as_affine(VIEWS)[view[keep]], turned[keep])


def _as_affine(views: Sequence[tuple[float, ...]]) -> Tensor:
    rows = [((sx, 0.0, tx), (0.0, sy, ty)) for sx, sy, tx, ty in views]
    return torch.tensor(rows)


def _descriptors(thumbs: Tensor, views: Sequence[tuple[float, ...]]) -> Tensor:
    """What is seen in each view of thumbnails, as unit vectors; zero if nothing is.

    Returns (2, V, B, 200): the part that is even under mirroring, and the odd one.
    """
    detail = detail_of(thumbs.float() / 255, has_content(thumbs), 4.0, 1.5)
    # Where there is something was seen to already: what has no content is zero.
    parts = [
        functional.adaptive_avg_pool2d(see(detail[:, :1], view[None]), _DESCRIPTOR_PIXELS)
        for view in _as_affine(views)
    ]
    seen = torch.stack(parts)[:, :, 0]
    seen = seen - seen.mean((2, 3), keepdim=True)
    seen = seen / seen.flatten(2).norm(dim=2)[..., None, None].clamp(min=1e-3)
    half = _DESCRIPTOR_PIXELS // 2
    left, right = seen[..., :half], seen[..., half:].flip(-1)
    return torch.stack([left + right, left - right]).flatten(3) / 2**0.5
