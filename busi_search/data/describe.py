"""What is in a dataset: counts, near-duplicates, contradictory labels."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.duplicates import conflicting_groups
from busi_search.data.partition import find_groups
from busi_search.data.sources import guess_source, load_dataset
from busi_search.spec import DatasetSection


def open_dataset(path: str) -> ImageDataset:
    """Load whatever dataset lies at a path.

    Raises:
        InputError: it is none, or not usable.
    """
    section = DatasetSection.model_validate({"source": guess_source(path), "path": path})
    return load_dataset(section)


def check_dataset(path: str, *, cache: Path) -> dict[str, Any]:
    """Read every image of a dataset and find near-duplicates.

    Args:
        path: a folder of class folders or an .npz file.
        cache: folder where the detection is kept for the next run.

    Returns:
        ``num_images``, ``classes`` {name: count}, and ``groups`` and ``conflicts``: lists of lists
        of two or more image names relative to ``path``; a conflict is a group whose labels differ.

    Raises:
        InputError: an image cannot be read.
    """
    dataset = open_dataset(path)
    groups = find_groups(dataset, "auto", cache)
    clashing = conflicting_groups(groups, dataset.labels)
    return {
        "num_images": len(dataset),
        "classes": {
            name: int(np.sum(dataset.labels == label))
            for label, name in enumerate(dataset.class_names)
        },
        "groups": [names for _, names in _members(dataset, groups)],
        "conflicts": [names for group, names in _members(dataset, groups) if group in clashing],
        "fingerprint": dataset.fingerprint,
    }


def _members(dataset: ImageDataset, groups: npt.NDArray[np.int64]) -> list[tuple[int, list[str]]]:
    """Names of the images of every group of two or more."""
    found: dict[int, list[str]] = {}
    for path, group in zip(dataset.paths, groups.tolist(), strict=True):
        found.setdefault(group, []).append(path)
    return [(group, names) for group, names in sorted(found.items()) if len(names) > 1]
