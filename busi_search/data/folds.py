"""Which images are the sealed test, and which folds divide the rest."""

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from busi_search.errors import InputError
from busi_search.wording import count_of

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Fold:
    """One division of the development images; both parts are sorted index arrays."""

    train: Indices
    validation: Indices


# A group of more than this share of the images is worth a word.
LARGE_GROUP_SHARE = 0.05
UNEVEN_FOLD_SHARE = 0.2


def large_group_warning(groups: Indices) -> str | None:
    """Return a sentence about the largest of groups (N,) if it holds over 5 % of the images."""
    sizes = np.unique(groups, return_counts=True)[1]
    # Few images make every group large.
    if not len(sizes) or sizes.max() <= max(4, LARGE_GROUP_SHARE * len(groups)):
        return None
    return (
        f"One group holds {sizes.max()} of {len(groups)} images ({sizes.max() / len(groups):.0%}): "
        "these are copies, one patient, or different images that look alike. Look at them "
        "(`busi-search data check PATH --json`); if they do not belong together, list the groups "
        "in a CSV file (dataset.groups)."
    )


def uneven_folds_warning(folds: Sequence[Fold]) -> str | None:
    """Return a sentence if a fold's size is over 20 % away from an equal share."""
    sizes = np.array([len(fold.validation) for fold in folds])
    if np.abs(sizes / sizes.mean() - 1).max() <= UNEVEN_FOLD_SHARE:
        return None
    return (
        f"Large groups make the folds uneven ({sizes.min()} to {sizes.max()} images), so some fold "
        "scores are less certain than others; fewer folds (dataset.num_folds) are more even."
    )


def make_folds(
    labels: Indices,
    groups: Indices,
    *,
    num_folds: int,
    seed: int,
    class_names: Sequence[str] | None = None,
) -> list[Fold]:
    """Divide images into stratified folds that keep groups together.

    On BUSI's near-duplicates and BUS-BRA's patients (five folds, 20 seeds) no fold is more than
    0.5 % off an equal size, and no class more than 0.8 percentage points off its overall share. One
    group of 10 % of the images changes nothing. One of 20 % changes sizes by 43 % and shares by 14
    points, one of 30 % by 93 % and 22 points.

    Args:
        labels: (N,) class of each image.
        groups: (N,) group of each image; images of one group share a fold.
        num_folds: number of folds, at least 2.
        seed: seed of the shuffle.
        class_names: names of the classes for errors, by label.

    Returns:
        ``num_folds`` folds whose validation parts are a partition of ``range(N)``.

    Raises:
        InputError: a class has fewer groups than there are folds.

    Source: scikit-learn's ``StratifiedGroupKFold``.
    """
    for label in np.unique(labels):
        num_groups = len(np.unique(groups[labels == label]))
        if num_groups < num_folds:
            raise InputError(
                f"Class {_name(class_names, label)} has {count_of(num_groups, 'group')} of images "
                f"for the search, fewer than {num_folds} folds; add images, join classes or lower "
                "dataset.num_folds."
            )
    splitter = StratifiedGroupKFold(n_splits=num_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        parts = list(splitter.split(np.zeros(len(labels)), labels, groups))
    return [
        Fold(train=np.sort(train).astype(np.int64), validation=np.sort(held_out).astype(np.int64))
        for train, held_out in parts
    ]


def named_folds(
    names: Sequence[str | None],
    labels: Indices,
    groups: Indices,
    *,
    paths: Sequence[str],
    num_folds: int,
    class_names: Sequence[str] | None = None,
) -> list[Fold]:
    """Make a fold of all images that have the same name of a fold or of a site.

    Images of a group that is in several folds are scored in their named fold, and are left out of
    the training of the folds that score the rest of their group.

    Args:
        names: D names; every image needs one.
        labels: (D,) class of each image.
        groups: (D,) group of each image.
        paths: D names of the images.
        num_folds: how many folds there must be.
        class_names: names of the classes for errors, by label.

    Returns:
        The folds in the order of their names.

    Raises:
        InputError: an image has no name, there are more or fewer folds, or a fold lacks a class.
    """
    if None in names or "" in names:
        first = next(path for name, path in zip(names, paths, strict=True) if not name)
        raise InputError(f"'{first}' is in no fold; name one for every image.")
    found = sorted(str(name) for name in set(names))
    if len(found) != num_folds:
        raise InputError(
            f"The images name {len(found)} folds ({', '.join(found[:10])}), and num_folds is "
            f"{num_folds}; set num_folds = {len(found)}."
        )
    folds = []
    for fold in found:
        validation = np.flatnonzero(np.asarray(names) == fold)
        train = np.flatnonzero(~np.isin(groups, groups[validation]))
        for part in (train, validation):
            if lacking := set(labels.tolist()) - set(labels[part].tolist()):
                raise InputError(
                    f"Fold '{fold}' cannot be used: one of its parts has no image of class "
                    f"{_name(class_names, min(lacking))}; join it with another fold, or use "
                    "stratified folds."
                )
        folds.append(Fold(train.astype(np.int64), validation.astype(np.int64)))
    return folds


def _name(class_names: Sequence[str] | None, label: int) -> str:
    return str(label) if class_names is None else f"'{class_names[label]}'"


def split_sealed_test(
    labels: Indices, groups: Indices, digests: Sequence[str], *, fraction: float, seed: int
) -> Indices:
    """Choose whole groups for the sealed test, class by class, up to ``fraction`` of each class.

    Membership depends on the content of the images and the seed only, not on names or order: a
    group's place in the draw is the hash of the seed and its smallest content digest.

    Args:
        labels: (N,) class of each image.
        groups: (N,) group of each image.
        digests: N content digests.
        fraction: share of every class, in (0, 0.5].
        seed: seed of the draw.

    Returns:
        Sorted indices of the test images; each class's share is right to within one group.
    """
    order: dict[int, str] = {}
    for group, digest in zip(groups.tolist(), digests, strict=True):
        order[group] = min(digest, order.get(group, digest))
    drawn = {
        group: hashlib.sha256(f"busi-search/test/{seed}/{digest}".encode()).hexdigest()
        for group, digest in order.items()
    }
    num_classes = int(labels.max()) + 1
    wanted = fraction * np.bincount(labels, minlength=num_classes)
    taken = np.zeros(num_classes)
    ids, member = np.unique(groups, return_inverse=True)
    classes_of = np.zeros((len(ids), num_classes))
    np.add.at(classes_of, (member, labels), 1)
    row_of = {int(group): row for row, group in enumerate(ids)}
    chosen: list[int] = []
    for group in sorted(drawn, key=lambda key: (drawn[key], key)):
        counts = classes_of[row_of[group]]
        # Half of the group may stand over: the share is then the nearest that whole groups allow.
        present = counts > 0
        if np.all(taken[present] + counts[present] / 2 <= wanted[present] + 1e-9):
            taken += counts
            chosen.append(group)
    return np.flatnonzero(np.isin(groups, chosen)).astype(np.int64)
