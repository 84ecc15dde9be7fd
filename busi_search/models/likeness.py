"""Whether an image is unlike the training images, in words."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .out_of_distribution import COLOURED_LIMIT, OutOfDistributionCheck

LIKE, DIFFERENT, FAR = "like", "different", "far"
# From so many limits on, images of another hospital are rare: see docs/explanation.
FAR_RATIO = 1.5
_MEANING = {
    DIFFERENT: "as many images of another hospital or scanner are: do not rely on the answer.",
    FAR: "by far, and may be no ultrasound image: do not trust the answer.",
}


@dataclass(frozen=True)
class Likeness:
    """Whether an image is unlike the training images.

    Attributes:
        unlike: whether it is; None: the model does not say what its training images looked like.
        distance: of its statistics from theirs; None: not known.
        limit: distance above which it is unlike; None: not known.
        coloured: share of its pixels that have a colour of their own.
        text: this in words.
        level: ``like``; ``different``, as many images of another hospital are; ``far``, as pictures
            that are no ultrasound are; None: not known.
    """

    unlike: bool | None
    distance: float | None
    limit: float | None
    coloured: float
    text: str
    level: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what JSON calls ``out_of_distribution``."""
        return asdict(self)


def compare(
    check: OutOfDistributionCheck | None, pixels: npt.NDArray[np.uint8], coloured: Sequence[float]
) -> list[Likeness]:
    """Return of each image whether it is unlike the training images.

    Args:
        check: what these looked like; None: not known.
        pixels: (N, S, S) or (N, 2, S, S) uint8, as the model sees the images.
        coloured: N shares of pixels that have a colour of their own, in the files.
    """
    if check is None:
        return [_in_words(None, None, share) for share in coloured]
    distances = check.distance(pixels)
    return [_in_words(check, float(d), share) for d, share in zip(distances, coloured, strict=True)]


def _in_words(
    check: OutOfDistributionCheck | None, distance: float | None, coloured: float
) -> Likeness:
    limit = None if check is None else check.limit
    if coloured > COLOURED_LIMIT:
        text = (
            f"This is a colour picture: {coloured:.0%} of its pixels are coloured. "
            "The model knows grey ultrasound images only: do not trust the answer."
        )
        return Likeness(True, distance, limit, coloured, text, FAR)
    if check is None or distance is None:
        text = "This model has no record of its training images, so the image was not compared."
        return Likeness(None, None, None, coloured, text)
    if distance > check.limit:
        level = FAR if distance > FAR_RATIO * check.limit else DIFFERENT
        often = f"which {100 * check.share_beyond:g} of 100 images like them exceed"
        text = (
            "This image is unlike the training images in brightness, contrast or texture, "
            f"{_MEANING[level]} (Distance {distance:.1f}; the limit is {check.limit:.1f}, {often}.)"
        )
        return Likeness(True, distance, limit, coloured, text, level)
    text = (
        "Brightness, contrast and texture are like those of the training images (distance "
        f"{distance:.1f}, limit {check.limit:.1f}). This does not show that the model knows such "
        "images."
    )
    return Likeness(False, distance, limit, coloured, text, LIKE)
