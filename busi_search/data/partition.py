"""From a dataset to what a study may see: groups, quarantine, sealed test, folds."""

import csv
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset, ImagesOnDemand
from busi_search.data.duplicates import conflicting_groups, find_duplicates
from busi_search.data.folds import Fold, make_folds, split_sealed_test
from busi_search.errors import InputError
from busi_search.files import disk_errors, user_path, write_atomically
from busi_search.seeding import derive_seed
from busi_search.spec import DatasetSection

Indices = npt.NDArray[np.int64]
# Part of the cache key: raise it when find_duplicates may give another answer for the same images.
DETECTOR_VERSION = 2


@dataclass(frozen=True)
class Partition:
    """How one study divides one dataset; made before anything is trained.

    Attributes:
        fingerprint: of the whole dataset.
        groups: (N,) group of each image of the whole dataset.
        development: sorted indices of the images the search may see.
        test: sorted indices of the sealed test.
        quarantined: sorted indices of images in groups whose labels disagree.
        conflicts: those groups, each a sorted tuple of indices.
        folds: cross-validation folds over positions in ``development``.
    """

    fingerprint: str
    groups: Indices
    development: Indices
    test: Indices
    quarantined: Indices
    conflicts: tuple[tuple[int, ...], ...]
    folds: tuple[Fold, ...]

    @property
    def development_groups(self) -> Indices:
        """(D,) group of each development image."""
        return self.groups[self.development]

    def digest(self) -> str:
        """16 hexadecimal digits that change with any membership."""
        content = hashlib.sha256(self.fingerprint.encode())
        for part in (self.development, self.test, *(fold.validation for fold in self.folds)):
            content.update(b"|" + ",".join(map(str, part.tolist())).encode())
        return content.hexdigest()[:16]


def find_groups(dataset: ImageDataset, rule: str, cache: Path) -> Indices:
    """Return the (N,) group of each image: near-duplicates, or what a CSV file says.

    Args:
        dataset: the images.
        rule: ``auto`` (detect near-duplicates), ``none`` (byte-identical images only) or the path
            of a CSV file with columns ``file`` and ``group`` (patients, for example).
        cache: folder where a detection is kept for the next run.

    Raises:
        InputError: an image cannot be read, or the CSV does not fit the dataset.
    """
    if rule == "none":
        return _first_of(list(dataset.digests))
    if rule != "auto":
        return _groups_from_csv(dataset, user_path(rule))
    stored = cache / "groups" / f"{dataset.fingerprint}-v{DETECTOR_VERSION}.json"
    try:
        groups = np.asarray(json.loads(stored.read_text()), dtype=np.int64)
        if groups.shape == (len(dataset),):
            return groups
    except (OSError, ValueError, TypeError, OverflowError):
        pass
    groups = find_duplicates(ImagesOnDemand(dataset))
    with disk_errors(stored.parent):
        write_atomically(stored, json.dumps(groups.tolist()).encode())
    return groups


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
    missing = [name for name in dataset.paths if name not in named]
    if missing:
        raise InputError(
            f"{path}: no group for {len(missing)} image(s), the first is '{missing[0]}'; "
            "names are relative to the dataset's folder."
        )
    return _first_of([named[name] for name in dataset.paths])


def make_partition(
    dataset: ImageDataset, section: DatasetSection, *, seed: int, cache: Path
) -> Partition:
    """Divide a dataset for a study.

    Groups come first, groups whose labels disagree are quarantined, the sealed test is split off,
    and what is left is divided into folds. A function of the data, the section and the seed.

    Args:
        dataset: the whole dataset.
        section: the study's ``[dataset]`` section.
        seed: the study's seed.
        cache: folder where detected groups are kept.

    Raises:
        InputError: the groups or the class counts do not allow it.
    """
    groups = find_groups(dataset, section.groups, cache)
    if section.groups in ("auto", "none"):
        clashing = conflicting_groups(groups, dataset.labels)
    else:
        # One patient may well have images of several classes; only twins may not.
        clashing = np.zeros(0, dtype=np.int64)
    quarantined = np.flatnonzero(np.isin(groups, clashing)).astype(np.int64)
    conflicts = tuple(tuple(np.flatnonzero(groups == group).tolist()) for group in clashing)
    sound = np.setdiff1d(np.arange(len(dataset)), quarantined)
    if section.test == "official":
        if dataset.official is None:
            raise InputError('test = "official" needs a dataset with official parts.')
        test = np.flatnonzero(np.asarray(dataset.official) == "test")
        development = np.setdiff1d(sound, test)
    else:
        drawn = split_sealed_test(
            dataset.labels[sound],
            groups[sound],
            [dataset.digests[index] for index in sound],
            fraction=section.test,
            seed=derive_seed(seed, -1, -1, "sealed test"),
        )
        test = sound[drawn]
        development = np.setdiff1d(sound, test)
    folds = make_folds(
        dataset.labels[development],
        groups[development],
        num_folds=section.num_folds,
        seed=derive_seed(seed, -1, -1, "folds"),
    )
    return Partition(
        fingerprint=dataset.fingerprint,
        groups=groups,
        development=development.astype(np.int64),
        test=test.astype(np.int64),
        quarantined=quarantined,
        conflicts=conflicts,
        folds=tuple(folds),
    )
