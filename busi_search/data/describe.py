"""What is in a dataset: counts, near-duplicates, contradictory labels."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.busi import load_busi
from busi_search.data.dataset import ImageDataset, ImagesOnDemand
from busi_search.data.duplicates import conflicting_groups, find_duplicate_pairs
from busi_search.data.folds import large_group_warning
from busi_search.data.medmnist import load_medmnist
from busi_search.data.partition import find_groups
from busi_search.errors import InputError
from busi_search.files import user_path


def open_dataset(path: str) -> ImageDataset:
    """Load a folder of class folders or a MedMNIST .npz file.

    Raises:
        InputError: it is neither, or not usable.
    """
    place = user_path(path)
    if place.is_dir():
        return load_busi(place)
    if place.suffix.lower() == ".npz":
        return load_medmnist(place)
    raise InputError(f"{path}: neither a folder of class folders nor a MedMNIST .npz file.")


def check_dataset(path: str, *, cache: Path) -> dict[str, Any]:
    """Read every image of a dataset and find near-duplicates.

    Args:
        path: a folder of class folders or an .npz file.
        cache: folder where the detection is kept for the next run.

    Returns:
        ``num_images``, ``classes`` {name: count}, and ``groups`` and ``conflicts``: lists of lists
        of two or more image names relative to ``path``; a conflict is a group whose labels differ.
        ``mirrored``: pairs of names of which one is the other mirrored, left to right.
        ``warnings``: sentences about what is unusual.

    Raises:
        InputError: an image cannot be read.
    """
    dataset = open_dataset(path)
    groups = find_groups(dataset, "auto", cache)
    clashing = conflicting_groups(groups, dataset.labels)
    warning = large_group_warning(groups)
    return {
        "num_images": len(dataset),
        "classes": {
            name: int(np.sum(dataset.labels == label))
            for label, name in enumerate(dataset.class_names)
        },
        "groups": [names for _, names in _members(dataset, groups)],
        "conflicts": [names for group, names in _members(dataset, groups) if group in clashing],
        "mirrored": _mirrored(dataset, groups),
        "warnings": [] if warning is None else [warning],
        "fingerprint": dataset.fingerprint,
    }


def _mirrored(dataset: ImageDataset, groups: npt.NDArray[np.int64]) -> list[list[str]]:
    """Names of the pairs within a group of which one is the other, left and right exchanged."""
    sizes = np.bincount(groups, minlength=len(groups))
    twins = dataset.subset(np.flatnonzero(sizes[groups] > 1).astype(np.int64))
    pairs = find_duplicate_pairs(ImagesOnDemand(twins))
    return [[twins.paths[p.first], twins.paths[p.second]] for p in pairs if p.mirrored]


def _members(dataset: ImageDataset, groups: npt.NDArray[np.int64]) -> list[tuple[int, list[str]]]:
    """Names of the images of every group of two or more."""
    found: dict[int, list[str]] = {}
    for path, group in zip(dataset.paths, groups.tolist(), strict=True):
        found.setdefault(group, []).append(path)
    return [(group, names) for group, names in sorted(found.items()) if len(names) > 1]
