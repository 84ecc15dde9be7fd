"""What a fold gives on the way and in the end, and the folds put together; light to import."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from busi_search.data.folds import Fold
    from busi_search.training.classifier import ImageClassifier

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Look:
    """A look at the validation images of a fold, on the way to its last epoch.

    Attributes:
        fold: its index.
        epoch: epochs done, from 1.
        epochs: that the fold is meant to be trained for.
        val_auc: validation AUC at every look of the fold so far, this one last.
    """

    fold: int
    epoch: int
    epochs: int
    val_auc: tuple[float, ...]


@dataclass(frozen=True)
class FoldResult:
    """What one fold of one trial gave.

    Attributes:
        fold: its index.
        log_probabilities: (V, C) float32, one row per validation image of the fold.
        metrics: :func:`busi_search.training.metrics.compute_metrics` of these.
        train_loss: one value per epoch.
        val_epochs: epochs at which the validation AUC was looked at (no epoch is chosen by it).
        val_auc: its values there.
        image_passes: images that went forward and backward.
        seconds: wall time.
        model: the trained network, where it was trained in this process.
    """

    fold: int
    log_probabilities: npt.NDArray[np.float32]
    metrics: Mapping[str, float]
    train_loss: tuple[float, ...]
    val_epochs: tuple[int, ...]
    val_auc: tuple[float, ...]
    image_passes: int
    seconds: float
    model: "ImageClassifier | None" = field(default=None, compare=False, repr=False)


def fold_results(steps: Iterable[Look | FoldResult]) -> Iterator[FoldResult]:
    """Leave out the looks on the way, for those who give no configuration up."""
    return (step for step in steps if isinstance(step, FoldResult))


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """One row per development image, predicted by the fold that held it out.

    Attributes:
        log_probabilities: (N, C) float32.
        fold_of: (N,) index of the fold.
    """

    log_probabilities: npt.NDArray[np.float32]
    fold_of: Indices


def gather_out_of_fold(
    results: Sequence[FoldResult], folds: "Sequence[Fold]"
) -> OutOfFoldPredictions:
    """Put the predictions of all folds into one array in the order of the images."""
    num_images = sum(len(fold.validation) for fold in folds)
    num_classes = results[0].log_probabilities.shape[1]
    rows = np.full((num_images, num_classes), np.nan, dtype=np.float32)
    fold_of = np.full(num_images, -1, dtype=np.int64)
    for result in results:
        validation = folds[result.fold].validation
        rows[validation] = result.log_probabilities
        fold_of[validation] = result.fold
    return OutOfFoldPredictions(rows, fold_of)
