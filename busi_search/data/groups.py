"""Which images belong together: near-duplicates, united with the groups that a file names."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from busi_search.data.dataset import ImageDataset, ImagesOnDemand
from busi_search.data.duplicates import find_duplicates
from busi_search.data.file_notes import read_file_notes
from busi_search.errors import InputError
from busi_search.files import disk_errors, user_path, write_atomically
from busi_search.wording import count_of

Indices = npt.NDArray[np.int64]
# Part of the cache key: raise it when find_duplicates may give another answer for the same images.
DETECTOR_VERSION = 2

PATIENTS = "patients"


@dataclass(frozen=True)
class Groups:
    """Which images belong together, and how that is known.

    Attributes:
        united: (N,) group of each image: images that are linked by ``twins``, ``known`` or both.
        twins: (N,) group of near-duplicates of each image.
        known: (N,) group of each image by the CSV file or the dataset's patients; None where
            neither is known.
        rule: ``auto``, ``none`` or the path of the file.
        origin: what tells the known groups: the file's name, or ``patients`` for the dataset's own.
    """

    united: Indices
    twins: Indices
    known: Indices | None
    rule: str
    origin: str = ""

    @property
    def num_known(self) -> int:
        """Number of known groups; 0 where none are known."""
        return 0 if self.known is None else len(np.unique(self.known))

    @property
    def num_twins(self) -> int:
        """Number of groups of two or more near-duplicates."""
        return int(np.sum(np.unique(self.twins, return_counts=True)[1] > 1))

    @property
    def across(self) -> Indices:
        """Groups of near-duplicates whose images are in several known groups."""
        if self.known is None:
            return np.zeros(0, dtype=np.int64)
        pairs = np.unique(np.stack([self.twins, self.known]), axis=1)
        groups, counts = np.unique(pairs[0], return_counts=True)
        return groups[counts > 1]

    def __str__(self) -> str:
        """How many groups there are, and where they come from."""
        groups = f"{len(np.unique(self.united))} groups"
        if self.known is None:
            found = "of near-duplicates" if self.rule == "auto" else "of identical files"
            return f"{groups} ({self.num_twins} {found}, the others of a single image)"
        known = "patients" if self.origin == PATIENTS else f"known from {self.origin}"
        return (
            f"{groups} ({self.num_known} {known}, united with {self.num_twins} of near-duplicates, "
            f"{len(self.across)} of which join several of them)"
        )

    @property
    def scope(self) -> str:
        """For whom figures are: new patients only where patients are known."""
        if self.known is None:
            return (
                "The figures are for new images from this source. Patients are not known: frames "
                "of one lesion are not copies, cannot be found in the pixels, and may be split "
                "between folds or between search and sealed test."
            )
        if self.origin == PATIENTS:
            return "The figures are for new patients from this source."
        return (
            "The figures are for new patients from this source, as far as the groups of "
            f"{self.origin} are patients."
        )


def find_groups(
    dataset: ImageDataset, rule: str, cache: Path, *, detector: int = DETECTOR_VERSION
) -> Groups:
    """Return which images belong together: near-duplicates, and what a CSV file says.

    Args:
        dataset: the images.
        rule: ``auto`` (detect near-duplicates, and unite them with the patients that the dataset
            names), ``none`` (byte-identical images only) or the path
            of a CSV file with columns ``file`` and ``group`` (patients, for example), whose groups
            are united with the near-duplicates that are detected.
        cache: folder where a detection is kept for the next run.
        detector: an earlier version is not run again; what it found must be in the cache.

    Raises:
        InputError: an image cannot be read, or the CSV does not fit the dataset.
    """
    if rule == "none":
        identical = _first_of(list(dataset.digests))
        return Groups(identical, identical, None, rule)
    twins = _find_twins(dataset, cache, detector)
    if rule != "auto":
        known, origin = _groups_from_csv(dataset, user_path(rule)), Path(rule).name
    elif dataset.patients is not None:
        known, origin = _patients(dataset.patients), PATIENTS
    else:
        return Groups(_with_frames(twins, dataset), twins, None, rule)
    return Groups(_with_frames(_united(twins, known), dataset), twins, known, rule, origin)


def _with_frames(groups: Indices, dataset: ImageDataset) -> Indices:
    """Unite the frames of a file, whose lesion is the same whatever else is known."""
    return groups if dataset.files is None else _united(groups, _first_of(dataset.files))


def _patients(names: Sequence[str | None]) -> Indices:
    """The group of each image; one whose patient is not known is a group of its own."""
    return _first_of(
        [f"image {i}" if name is None else f"= {name}" for i, name in enumerate(names)]
    )


def _find_twins(dataset: ImageDataset, cache: Path, detector: int) -> Indices:
    decoding = read_file_notes(dataset, cache).decoding
    stored = cache / "groups" / f"{dataset.fingerprint}-v{detector}{decoding}.json"
    try:
        groups = np.asarray(json.loads(stored.read_text()), dtype=np.int64)
        if groups.shape == (len(dataset),):
            return groups
    except (OSError, ValueError, TypeError, OverflowError):
        pass
    if detector != DETECTOR_VERSION:
        raise InputError(f"{stored}: near-duplicates as version {detector} found them are gone.")
    groups = find_duplicates(ImagesOnDemand(dataset))
    with disk_errors(stored.parent):
        write_atomically(stored, json.dumps(groups.tolist()).encode())
    return groups


def _united(twins: Indices, known: Indices) -> Indices:
    """Return the connected components of both; each is named by its first image."""
    size = len(twins)
    images = np.arange(size)
    # Groups are named by an image of theirs, and so are links to it.
    links = coo_matrix(
        (np.ones(2 * size), (np.tile(images, 2), np.concatenate([twins, known]))), (size, size)
    )
    _, component = connected_components(links, directed=False)
    _, first, inverse = np.unique(component, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def _first_of(keys: Sequence[str]) -> Indices:
    first: dict[str, int] = {}
    return np.asarray([first.setdefault(key, i) for i, key in enumerate(keys)], dtype=np.int64)


def _groups_from_csv(dataset: ImageDataset, path: Path) -> Indices:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.DictReader(stream))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: the groups file cannot be read ({error}).") from None
    if not rows or not {"file", "group"} <= set(rows[0]):
        raise InputError(f"{path}: expected a CSV file with a header and columns file,group.")
    named: dict[str, str] = {}
    for row in rows:
        file, group = row["file"], row["group"]
        if not file or not group:
            raise InputError(f"{path}: a row without file or group: {dict(row)}.")
        if named.setdefault(file, group) != group:
            raise InputError(f"{path}: '{file}' is listed in two groups; keep one row.")
    # A frame is named itself, or belongs where its file does.
    for name, file in zip(dataset.paths, dataset.files or (), strict=False):
        if name not in named and file in named:
            named[name] = named[file]
    missing = [name for name in dataset.paths if name not in named]
    if missing:
        raise InputError(
            f"{path}: no group for {count_of(len(missing), 'image')}, the first is '{missing[0]}'; "
            "names are relative to the dataset's folder."
        )
    return _first_of([named[name] for name in dataset.paths])
