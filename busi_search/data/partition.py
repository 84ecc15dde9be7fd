"""From a dataset to what a study may see: groups, quarantine, sealed test, folds."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.duplicates import conflicting_groups
from busi_search.data.folds import Fold, make_folds, named_folds, split_sealed_test
from busi_search.data.groups import DETECTOR_VERSION, Groups, find_groups
from busi_search.errors import InputError
from busi_search.seeding import derive_seed
from busi_search.spec import MOST_FOLDS, DatasetSection

Indices = npt.NDArray[np.int64]
# How a division is made. 1: a CSV of groups took the place of the near-duplicates, and an official
# test kept images that were to be quarantined. 2: neither. 3: the test is drawn within every site.
RULES_VERSION = 3
# A class of a site with fewer images shares its draw with those of other sites.
FEW_OF_A_SITE = 10


@dataclass(frozen=True)
class Partition:
    """How one study divides one dataset; made before anything is trained.

    Attributes:
        fingerprint: of the whole dataset.
        grouping: which images of the whole dataset belong together.
        development: sorted indices of the images the search may see.
        test: sorted indices of the sealed test.
        quarantined: sorted indices of images whose near-duplicates are labelled otherwise.
        conflicts: the groups of these, each a sorted tuple of indices.
        left_out_of_test: those of the quarantined images that are official test images.
        folds: cross-validation folds over positions in ``development``.
        earlier: how the rules differed by which an earlier version made this division; empty if it
            is made as it would be now.
    """

    fingerprint: str
    grouping: Groups
    development: Indices
    test: Indices
    quarantined: Indices
    conflicts: tuple[tuple[int, ...], ...]
    left_out_of_test: Indices
    folds: tuple[Fold, ...]
    earlier: str = ""

    @property
    def groups(self) -> Indices:
        """(N,) group of each image of the whole dataset, which no fold divides."""
        return self.grouping.united

    @property
    def development_groups(self) -> Indices:
        """(D,) group of each development image."""
        return self.groups[self.development]

    def counts(self) -> dict[str, int]:
        """Return how many images and groups there are of every kind."""
        return {
            "num_images": len(self.groups),
            "num_groups": len(np.unique(self.groups)),
            "num_conflicts": len(self.conflicts),
            "num_quarantined": len(self.quarantined),
            "num_development": len(self.development),
            "num_test": len(self.test),
            "num_known_groups": self.grouping.num_known,
            "num_twin_groups": self.grouping.num_twins,
            "num_twin_groups_across": len(self.grouping.across),
            "num_test_quarantined": len(self.left_out_of_test),
        }

    def digest(self) -> str:
        """16 hexadecimal digits that change with any membership."""
        content = hashlib.sha256(self.fingerprint.encode())
        for part in (self.development, self.test, *(fold.validation for fold in self.folds)):
            content.update(b"|" + ",".join(map(str, part.tolist())).encode())
        return content.hexdigest()[:16]


def make_partition(
    dataset: ImageDataset,
    section: DatasetSection,
    *,
    seed: int,
    cache: Path,
    began_with: str | None = None,
) -> Partition:
    """Divide a dataset for a study.

    Groups come first, near-duplicates whose labels disagree are quarantined, the sealed test is
    split off, and what is left is divided into folds. A function of the data, the section and the
    seed.

    Args:
        dataset: the whole dataset.
        section: the study's ``[dataset]`` section.
        seed: the study's seed.
        cache: folder where detected groups are kept.
        began_with: digest of the division that the study began with. If an earlier version made it
            by other rules, it is made by them again.

    Raises:
        InputError: the groups or the class counts do not allow it.
    """
    if began_with is not None:
        for detector in range(DETECTOR_VERSION, 0, -1):
            for rules in range(RULES_VERSION, 0, -1):
                with suppress(InputError):
                    found = _divide(dataset, section, seed, cache, detector, rules)
                    if found.digest() == began_with:
                        return found
    return _divide(dataset, section, seed, cache, DETECTOR_VERSION, RULES_VERSION)


def _divide(
    dataset: ImageDataset,
    section: DatasetSection,
    seed: int,
    cache: Path,
    detector: int,
    rules: int,
) -> Partition:
    grouping = find_groups(dataset, section.groups, cache, detector=detector)
    if rules == 1 and grouping.known is not None:
        grouping = replace(grouping, united=grouping.known, twins=np.arange(len(dataset)))
    groups = grouping.united
    # One patient may well have images of several classes; only twins may not.
    clashing = conflicting_groups(grouping.twins, dataset.labels)
    quarantined = np.flatnonzero(np.isin(grouping.twins, clashing)).astype(np.int64)
    conflicts = tuple(tuple(np.flatnonzero(grouping.twins == twin).tolist()) for twin in clashing)
    sound = np.setdiff1d(np.arange(len(dataset)), quarantined)
    left_out = np.zeros(0, dtype=np.int64)
    in_table = section.source == "table" and "test" in (dataset.official or ())
    if section.test == "official" or in_table:
        if dataset.official is None:
            raise InputError('test = "official" needs a dataset with official parts.')
        test = np.flatnonzero(np.asarray(dataset.official) == "test")
        if rules > 1:
            left_out = np.intersect1d(test, quarantined)
            test = np.setdiff1d(test, quarantined)
    else:
        strata = _strata(dataset) if rules > 2 else dataset.labels
        drawn = split_sealed_test(
            strata[sound],
            groups[sound],
            [dataset.digests[index] for index in sound],
            fraction=section.test,
            seed=derive_seed(seed, -1, -1, "sealed test"),
        )
        test = sound[drawn]
    development = np.setdiff1d(sound, test)
    folds = _folds(dataset.subset(development), groups[development], section, seed)
    return Partition(
        fingerprint=dataset.fingerprint,
        grouping=grouping,
        development=development.astype(np.int64),
        test=test.astype(np.int64),
        quarantined=quarantined,
        conflicts=conflicts,
        left_out_of_test=left_out,
        folds=tuple(folds),
        earlier=_earlier(detector, rules, grouping),
    )


def _strata(dataset: ImageDataset) -> Indices:
    """(N,) what the sealed test holds its share of: every class of every site."""
    sites = dataset.properties.get("site")
    if sites is None or len(set(sites)) < 2:
        return dataset.labels
    site = np.unique(np.asarray(sites), return_inverse=True)[1]
    number, of = np.unique(np.stack([site, dataset.labels]), axis=1, return_inverse=True)
    stratum = of.reshape(-1)
    few = np.bincount(stratum) < FEW_OF_A_SITE
    # Those of few images are drawn together, class by class.
    shared = number.shape[1] + dataset.labels
    chosen = np.where(few[stratum], shared, stratum)
    return np.unique(chosen, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _folds(
    development: ImageDataset, groups: Indices, section: DatasetSection, seed: int
) -> list[Fold]:
    if section.folds == "stratified":
        return make_folds(
            development.labels,
            groups,
            num_folds=section.num_folds,
            seed=derive_seed(seed, -1, -1, "folds"),
            class_names=development.class_names,
        )
    names = development.folds
    if section.folds == "site":
        names = development.properties.get("site")
    if names is None:
        what = "folds of its authors" if section.folds == "official" else "sites"
        raise InputError(
            f'folds = "{section.folds}" needs {what}, and {development.name} has none; give them '
            'in a table (source = "table"), or use folds = "stratified".'
        )
    if section.folds == "site" and not 2 <= len(set(names)) <= MOST_FOLDS:
        raise InputError(
            f'folds = "site" needs 2 to {MOST_FOLDS} sites, better 3 or more, and there are '
            f'{len(set(names))}; join or add some, or use folds = "stratified".'
        )
    stated = "num_folds" in section.model_fields_set
    return named_folds(
        names,
        development.labels,
        groups,
        paths=development.paths,
        num_folds=section.num_folds if stated else len(set(names)),
        class_names=development.class_names,
    )


def _earlier(detector: int, rules: int, grouping: Groups) -> str:
    notes = []
    if rules == 1 and grouping.known is not None:
        notes.append("near-duplicates were not looked for beside the file of groups")
    elif rules == 1:
        notes.append("official test images stayed although a near-duplicate is labelled otherwise")
    if rules == 2:
        notes.append("the sealed test was drawn from all sites together")
    if detector < DETECTOR_VERSION:
        notes.append("near-duplicates were found by an earlier method")
    return "; ".join(notes)
