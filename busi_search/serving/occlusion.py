"""Which part of an image an answer hangs on, by covering one part after another.

A registered model is a ``torch.export`` program (pt2): it has no gradients, so that methods such as
Grad-CAM cannot be applied to it. Covering needs nothing but answers.
"""

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

GRID = 8
SECONDS_ALLOWED = 20.0

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
        image: (S, S) uint8.
        predict: maps (N, S, S) uint8 to (N, C) probabilities.
        class_index: of the class whose probability is looked at.
        seconds_allowed: the work is given up before it begins if it would take longer.

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
    edges = np.linspace(0, image.shape[0], GRID + 1).round().astype(int)
    covered = np.repeat(image[None], len(corners), axis=0)
    for index, (row, column) in enumerate(corners):
        rows = slice(edges[row], edges[row + 2])
        covered[index, rows, edges[column] : edges[column + 2]] = round(float(image.mean()))
    falls = whole - predict(covered)[:, class_index]
    total, times = np.zeros((2, GRID, GRID), dtype=np.float32)
    for (row, column), fall in zip(corners, falls, strict=True):
        total[row : row + 2, column : column + 2] += fall
        times[row : row + 2, column : column + 2] += 1
    result: _Floats = total / times
    return result
