"""Whether a division holds enough of every class for the figures that a study will give."""

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.partition import Partition
from busi_search.errors import InputError
from busi_search.wording import count_of

# With fewer groups of a class in the sealed test there is no spread, and so no interval.
MIN_TEST_GROUPS = 2
# With fewer, an interval of the sensitivity is wider than half of the scale.
FEW_TEST_GROUPS = 10

Indices = npt.NDArray[np.int64]


def check_division(dataset: ImageDataset, partition: Partition) -> None:
    """Raise if a study on this division could not give its figures.

    Args:
        dataset: the whole dataset.
        partition: how it is divided.

    Raises:
        InputError: a class has fewer than two groups in the sealed test, or is absent from the
            part of a fold.
    """
    for label, count in enumerate(_test_groups(dataset, partition)):
        if count < MIN_TEST_GROUPS:
            name, number = dataset.class_names[label], int(np.sum(dataset.labels == label))
            raise InputError(
                f"The sealed test would hold {count_of(count, 'group')} of images of class "
                f"'{name}' "
                f"(of {count_of(number, 'image')} in all), too few for a confidence interval; add "
                "images, join classes, or seal a larger share (dataset.test)."
            )
    labels = dataset.labels[partition.development]
    for number, fold in enumerate(partition.folds, start=1):
        for part in (fold.train, fold.validation):
            absent = np.setdiff1d(np.arange(len(dataset.class_names)), labels[part])
            if len(absent):
                raise InputError(
                    f"Fold {number} of {len(partition.folds)} has no image of class "
                    f"'{dataset.class_names[absent[0]]}' in one of its parts, because groups stay "
                    "together; add images, join classes or lower dataset.num_folds."
                )

    _check_correction(dataset, partition, labels)


def _check_correction(dataset: ImageDataset, partition: Partition, labels: Indices) -> None:
    """Raise if the score could not be corrected: a part of the groups is left out for that.

    A fold in which a class has a single group has no score without it.
    """
    groups = partition.development_groups
    scarce = None
    for fold in partition.folds:
        truth, member = labels[fold.validation], groups[fold.validation]
        counts = [len(np.unique(member[truth == c])) for c in range(len(dataset.class_names))]
        if min(counts) > 1:
            return
        scarce = dataset.class_names[int(np.argmin(counts))]
    raise InputError(
        f"No fold holds two groups of every class (there is one of '{scarce}'): the score "
        "corrected for the choice among trials could not be computed; add images, join classes or "
        "lower dataset.num_folds."
    )


def few_test_images_warning(dataset: ImageDataset, partition: Partition) -> str | None:
    """Return a sentence if the sealed test holds few groups of some class."""
    few = [
        f"{count} of '{dataset.class_names[label]}'"
        for label, count in enumerate(_test_groups(dataset, partition))
        if count < FEW_TEST_GROUPS
    ]
    if not few:
        return None
    shown = ", ".join(few[:5]) + (" …" if len(few) > 5 else "")
    return (
        f"The sealed test holds few groups of images ({shown}): sensitivity and AUC of the test "
        "will have wide intervals."
    )


def _test_groups(dataset: ImageDataset, partition: Partition) -> list[int]:
    """How many groups of every class the sealed test holds."""
    labels, groups = dataset.labels[partition.test], partition.groups[partition.test]
    return [len(np.unique(groups[labels == c])) for c in range(len(dataset.class_names))]
