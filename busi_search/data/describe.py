"""What is in a dataset: counts, near-duplicates, contradictory labels."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.across_sets import SharedImages, find_shared_images
from busi_search.data.classes import untold_positive_note
from busi_search.data.dataset import ImageDataset, ImagesOnDemand
from busi_search.data.duplicates import conflicting_groups, find_duplicate_pairs
from busi_search.data.folds import large_group_warning
from busi_search.data.groups import find_groups
from busi_search.data.lesions import find_lesions
from busi_search.data.shortcuts import check_files
from busi_search.data.sources import guess_source, load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection


def open_dataset(path: str, cache: Path | None = None) -> ImageDataset:
    """Load whatever dataset lies at a path, to look at its images.

    Names of classes that do not tell the disease are noted, not refused.

    Args:
        path: a folder, a table or an .npz file.
        cache: folder where the digests of files are kept for the next time.

    Args:
        path: a folder, a table or an .npz file.
        cache: folder of the home's cache.

    Raises:
        InputError: it is none, or not usable.
    """
    section = DatasetSection.model_validate({"source": guess_source(path), "path": path})
    found = load_dataset(section, cache=cache, positive_needed=False)
    note = untold_positive_note(found.class_names)
    return found if note is None else replace(found, notes=(*found.notes, note))


def check_dataset(path: str, *, cache: Path, groups: str = "auto") -> dict[str, Any]:
    """Read every image of a dataset and find near-duplicates.

    Args:
        path: a folder, a table or an .npz file.
        cache: folder where the detection is kept for the next run.
        groups: a CSV file of known groups, as ``dataset.groups`` takes it.

    Returns:
        ``num_images``, ``classes`` {name: count}, and ``groups``, ``conflicts`` and ``across``:
        lists of lists of two or more image names relative to ``path``. Groups are of
        near-duplicates; a conflict is one whose labels differ, and those across have images in
        several known groups. ``num_known_groups``, ``num_twin_groups`` and ``num_united_groups``
        are the numbers of known groups, of groups of near-duplicates and of what both make
        together, single images included in the first and the last.
        ``lesions`` {name: count}: images of each class with a lesion mask that is not empty or a
        box. ``mirrored``: pairs of names of which one is the other mirrored, left to right.
        ``warnings``: sentences about what is unusual.

    Raises:
        InputError: an image cannot be read, or the CSV does not fit the dataset.
    """
    dataset = open_dataset(path, cache)
    grouping = find_groups(dataset, groups, cache)
    clashing = conflicting_groups(grouping.twins, dataset.labels)
    members = _members(dataset, grouping.twins)
    warning = large_group_warning(grouping.united)
    lesions = [box is not None for box in find_lesions(dataset, cache)]
    return {
        "num_images": len(dataset),
        "classes": {
            name: int(np.sum(dataset.labels == label))
            for label, name in enumerate(dataset.class_names)
        },
        "lesions": {
            name: int(np.sum((dataset.labels == label) & lesions))
            for label, name in enumerate(dataset.class_names)
        },
        "groups": [names for _, names in members],
        "conflicts": [names for group, names in members if group in clashing],
        "across": [names for group, names in members if group in grouping.across],
        "num_known_groups": grouping.num_known,
        "num_twin_groups": grouping.num_twins,
        "num_united_groups": len(np.unique(grouping.united)),
        "mirrored": _mirrored(dataset, grouping.twins),
        "warnings": [*check_files(dataset, cache), *([] if warning is None else [warning])],
        "fingerprint": dataset.fingerprint,
    }


def compare_datasets(paths: Sequence[str], *, cache: Path) -> list[SharedImages]:
    """Find the images that are in two of several sets.

    Args:
        paths: of two or more sets, each as :func:`check_dataset` takes it.
        cache: folder where what is found is kept for the next time.

    Raises:
        InputError: an image cannot be read, or one set is named twice.
    """
    sets = [open_dataset(path, cache) for path in paths]
    seen: dict[str, str] = {}
    for path, found in zip(paths, sets, strict=True):
        if found.fingerprint in seen:
            raise InputError(
                f"{path}: holds the same images under the same names and labels as "
                f"{seen[found.fingerprint]}; name each set once."
            )
        seen[found.fingerprint] = path
    return find_shared_images(sets, cache)


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
