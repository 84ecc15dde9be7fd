"""Which areas of an image influenced the answer, by covering one part after another.

A registered model is a ``torch.export`` program (pt2): it has no gradients, so that methods such as
Grad-CAM cannot be applied to it. Covering needs nothing but answers.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

GRID = 8
SECONDS_ALLOWED = 20.0

# Of large images fewer copies are made at once.
_PIXELS_AT_ONCE = 50_000_000

_Pixels = npt.NDArray[np.uint8]
_Floats = npt.NDArray[np.float32]


def occlusion_map(
    image: _Pixels,
    predict: Callable[[_Pixels], _Floats],
    class_index: int,
    *,
    seconds_allowed: float = SECONDS_ALLOWED,
) -> _Floats | None:
    """Return how much the probability of a class falls when a part of the image is covered.

    Args:
        image: (H, W) uint8.
        predict: maps (N, H, W) uint8 to (N, C) probabilities.
        class_index: of the class whose probability is looked at.
        seconds_allowed: the work does not begin if it would take longer.

    Returns:
        (8, 8): fall of the probability, in [-1, 1], averaged over the patches (two by two cells,
        painted in the image's mean grey) that cover each cell; None if it would take too long.

    Source: Zeiler and Fergus 2014, "Visualizing and understanding convolutional networks".
    """
    started = time.monotonic()
    whole = float(predict(image[None])[0, class_index])
    per_image = time.monotonic() - started
    corners = [(row, column) for row in range(GRID - 1) for column in range(GRID - 1)]
    if per_image * len(corners) > seconds_allowed:
        return None
    at_once = max(1, _PIXELS_AT_ONCE // image.size)
    parts = [corners[start : start + at_once] for start in range(0, len(corners), at_once)]
    answers = [predict(_covered(image, part))[:, class_index] for part in parts]
    falls = whole - np.concatenate(answers)
    total, times = np.zeros((2, GRID, GRID), dtype=np.float32)
    for (row, column), fall in zip(corners, falls, strict=True):
        total[row : row + 2, column : column + 2] += fall
        times[row : row + 2, column : column + 2] += 1
    result: _Floats = total / times
    return result


def _covered(image: _Pixels, corners: Sequence[tuple[int, int]]) -> _Pixels:
    """(N, H, W): the image with two by two cells covered, from each of N upper left cells on."""
    down, across = (np.linspace(0, side, GRID + 1).round().astype(int) for side in image.shape)
    covered = np.repeat(image[None], len(corners), axis=0)
    for index, (row, column) in enumerate(corners):
        rows, columns = slice(down[row], down[row + 2]), slice(across[column], across[column + 2])
        covered[index, rows, columns] = round(float(image.mean()))
    return covered
