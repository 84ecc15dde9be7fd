"""External images for a model that never saw them: read, mapped, and without known ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.class_mapping import LEAVE_OUT, map_classes, parse_class_map
from busi_search.data.classes import UnknownPositive
from busi_search.data.dataset import ImageDataset
from busi_search.data.duplicates import conflicting_groups
from busi_search.data.groups import find_groups
from busi_search.data.image_cache import load_images
from busi_search.data.images import GreyImage
from busi_search.data.known_images import KnownImages
from busi_search.data.lesions import check_lesions, find_lesions
from busi_search.data.shortcuts import check_files
from busi_search.data.sources import guess_source, load_dataset
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.judging import ask_module
from busi_search.models.predict import Classifier
from busi_search.models.registry import RegisteredVersion
from busi_search.models.seal_watch import sealed_sentence
from busi_search.release.developed_on import known_to
from busi_search.spec import DatasetSection

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class LeftOut:
    """Images of the data that are not evaluated, by the reason.

    Attributes:
        in_development: names of those that show scans the model was developed on.
        in_own_test: names of those in the sealed test of the model's own study.
        contradictory: names of near-duplicates whose labels disagree.
        sealed: names of those that other studies have sealed, where they were to be kept sealed.
        by_class: number of images of each class that was to be left out.
    """

    in_development: tuple[str, ...]
    in_own_test: tuple[str, ...]
    contradictory: tuple[str, ...]
    sealed: tuple[str, ...]
    by_class: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return names and numbers, as ``evaluate --json`` prints them."""
        return {
            "in_development": list(self.in_development),
            "in_own_test": list(self.in_own_test),
            "contradictory": list(self.contradictory),
            "sealed": list(self.sealed),
            "by_class": dict(self.by_class),
        }


@dataclass(frozen=True)
class OtherData:
    """External images on which a model may be evaluated.

    Attributes:
        name: of the data.
        fingerprint: of all its images.
        num_images: all its images.
        class_map: name of the model's class (or ``leave out``) by name of the data's class.
        dataset: the N images that are left.
        indices: (N,) their indices among all images of the data.
        labels: (N,) index of the model's class.
        groups: (N,) groups of near-duplicates and patients.
        grouping: what the groups are, in words.
        left_out: the others.
        notes: sentences about how the data was read.
        small: N small copies of the images, by which sealed scans are found.
    """

    name: str
    fingerprint: str
    num_images: int
    class_map: Mapping[str, str]
    dataset: ImageDataset
    indices: Labels
    labels: Labels
    groups: Labels
    grouping: str
    left_out: LeftOut
    notes: tuple[str, ...]
    small: Sequence[GreyImage]

    def to_json(self) -> dict[str, Any]:
        """Return what ``evaluate --json`` prints of the data."""
        return {
            "name": self.name,
            "fingerprint": self.fingerprint,
            "num_images": self.num_images,
            "num_evaluated": len(self.labels),
            "num_groups": len(np.unique(self.groups)),
            "grouping": self.grouping,
            "class_map": dict(self.class_map),
        }


def read_other_data(
    home: Home,
    data: str,
    classifier: Classifier,
    version: RegisteredVersion,
    *,
    class_map: Sequence[str] = (),
    keep_sealed: bool = False,
) -> OtherData:
    """Read external images and leave out those that the model or its study knows.

    Near-duplicates count as known, whatever their size, crop or format. Sealed images of the
    model's own study are left out too: they are no other data, and have their own evaluation.

    Args:
        home: where the register of known images is.
        data: a folder, table or .npz file, as ``run --data`` takes it.
        classifier: the model.
        version: its version.
        class_map: see :func:`.parse_class_map`.
        keep_sealed: leave out what other studies have sealed, too.

    Raises:
        InputError: the data or the mapping is not usable, too few images are left, or this home
            does not know what the model was developed on.
    """
    stated = parse_class_map(class_map)
    dataset = _load(data, classifier, home.cache)
    mapped = map_classes(dataset.class_names, classifier.class_names, stated, where=data)
    notes = check_files(dataset, home.cache)
    grouping = find_groups(dataset, "auto", home.cache)
    known = KnownImages(home)
    known.add_images(dataset)
    developed, own_test = known_to(home, version, dataset, known)
    # Read once, when they were kept.
    small = known.sets[dataset.fingerprint].images
    clashing = np.isin(grouping.twins, conflicting_groups(grouping.twins, dataset.labels))
    unmapped = np.array([mapped[label] is None for label in dataset.labels])
    remaining = ~(developed | own_test | clashing | unmapped)
    sealed = np.zeros(len(dataset), dtype=bool)
    if keep_sealed:
        chosen = np.flatnonzero(remaining)
        found = classifier.find_sealed([small[index] for index in chosen])
        sealed[chosen] = [bool(scans) for scans in found]
        remaining &= ~sealed

    def names(which: npt.NDArray[np.bool_]) -> tuple[str, ...]:
        return tuple(dataset.paths[index] for index in np.flatnonzero(which))

    left_out = LeftOut(
        in_development=names(developed & ~unmapped),
        in_own_test=names(own_test & ~developed & ~unmapped),
        contradictory=names(clashing & ~developed & ~own_test & ~unmapped),
        sealed=names(sealed),
        by_class={
            name: int(np.sum(dataset.labels == label))
            for label, name in enumerate(dataset.class_names)
            if mapped[label] is None
        },
    )
    kept = np.flatnonzero(remaining).astype(np.int64)
    labels = np.array([mapped[label] for label in dataset.labels[kept]], dtype=np.int64)
    _check_enough(labels, classifier, left_out, where=data)
    return OtherData(
        name=dataset.name,
        fingerprint=dataset.fingerprint,
        num_images=len(dataset),
        class_map={
            name: LEAVE_OUT if target is None else classifier.class_names[target]
            for name, target in zip(dataset.class_names, mapped, strict=True)
        },
        dataset=dataset.subset(kept),
        indices=kept,
        labels=labels,
        groups=grouping.united[kept],
        grouping=str(grouping),
        left_out=left_out,
        notes=(*dataset.notes, *notes),
        small=[small[index] for index in kept],
    )


def ask_model(
    home: Home, other: OtherData, classifier: Classifier, *, how: str
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_], str | None]:
    """Predict external images; openings of sealed images of other studies are counted first.

    Args:
        home: where the cache of decoded images is.
        other: the images.
        classifier: the model.
        how: it is asked, for the ledgers.

    Returns:
        (N, C) probabilities; (N,) whether an image looks unlike the training images; and what was
        opened, as a sentence, or None.

    Raises:
        BusiSearchError: the ledger of a study concerned was tampered with.
    """
    found = classifier.find_sealed(other.small)
    sealed_by = classifier.settle_sealed(found, other.dataset.paths, keep_sealed=False, how=how)
    opened = f"{sealed_sentence(sealed_by)}: this opening was counted." if any(sealed_by) else None
    pixels = load_other_images(other.dataset, classifier, home)
    unlike = np.zeros(len(pixels), dtype=bool)
    if classifier.familiarity is not None:
        unlike = classifier.familiarity.distance(pixels) > classifier.familiarity.limit
    return ask_module(classifier.module, pixels), unlike, opened


def load_other_images(
    dataset: ImageDataset, classifier: Classifier, home: Home
) -> npt.NDArray[np.uint8]:
    """Return external images as a model sees them, (N, S, S) or (N, 2, S, S) uint8.

    Raises:
        InputError: the model must be told where the lesions are, and the data does not say it, or
            says it of some classes only.
    """
    if classifier.geometry.needs_lesion:
        check_lesions(dataset, find_lesions(dataset, home.cache))
    return load_images(dataset, classifier.size_pixels, home.cache, classifier.geometry)


def _load(data: str, classifier: Classifier, cache: Path) -> ImageDataset:
    """Read the data; which class is the disease follows from the model, where names do not tell."""
    section = DatasetSection.model_validate(
        {
            "source": guess_source(data),
            "path": data,
            "image_size_pixels": classifier.size_pixels,
        }
    )
    try:
        return load_dataset(section, cache=cache)
    except UnknownPositive as error:
        # Any class will do: truth comes from the mapping onto the model's classes.
        return load_dataset(
            section.model_copy(update={"positive": error.class_names[0]}), cache=cache
        )


def _check_enough(labels: Labels, classifier: Classifier, left_out: LeftOut, *, where: str) -> None:
    positive = classifier.class_names.index(classifier.positive_class)
    truth = labels == positive
    if truth.sum() >= 2 and (~truth).sum() >= 2:
        return
    known = len(left_out.in_development) + len(left_out.in_own_test)
    raise InputError(
        f"{where}: {int(truth.sum())} {classifier.positive_class} and {int((~truth).sum())} other "
        f"images are left, at least two of each are needed; {known} were left out because the "
        f"model's study holds them, {len(left_out.contradictory)} because their near-duplicates "
        f"are labelled otherwise, {sum(left_out.by_class.values())} by --map, "
        f"{len(left_out.sealed)} because they are sealed."
    )
