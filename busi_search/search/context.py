"""All that a trial needs to know about its study; travels to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import optuna

from busi_search.data.adequacy import check_division, few_test_images_warning
from busi_search.data.classes import infer_positive, positive_class
from busi_search.data.dataset import ImageDataset
from busi_search.data.folds import large_group_warning, uneven_folds_warning
from busi_search.data.image_cache import load_images, load_masks
from busi_search.data.known_images import KnownImages, Membership
from busi_search.data.partition import Partition, make_partition
from busi_search.data.shortcuts import check_files
from busi_search.data.sources import load_dataset
from busi_search.errors import BusiSearchError, InputError
from busi_search.home import Home
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import CHANGED_DIVISION, Identity, StudyRecord
from busi_search.spec import Hyperparameters, Range, StudySpec

Images = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class StudyContext:
    """One study on one home; picklable, without any image of the sealed test.

    Attributes:
        name: of the study, in every store.
        spec: the checked study file.
        spec_text: the file, verbatim.
        home: where things are kept.
        device: PyTorch's name of the device trials run on.
        partition: who belongs where.
        development: the images the search may see.
        counts: of images and groups of the whole dataset, see :meth:`~.Partition.counts`, and of
            test images that other studies of this home developed on.
        origin: name of the study file.
        developed_by: names of these studies.
        remarks: sentences on how the images were read, and on what tells the classes apart.
        class_counts: number of images of every class of the whole dataset, by its name.
        sent: images, and masks, by size, for workers that cannot read the files; (N, S, S) uint8.
    """

    name: str
    spec: StudySpec
    spec_text: str
    home: Home
    device: str
    partition: Partition
    development: ImageDataset
    counts: dict[str, int]
    origin: str
    developed_by: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    class_counts: Mapping[str, int] = field(default_factory=dict)
    sent: Mapping[int, tuple[Images, Images | None]] = field(default_factory=dict, repr=False)

    @cached_property
    def groups(self) -> npt.NDArray[np.int64]:
        """(N,) group of each development image."""
        return self.partition.development_groups

    @property
    def warnings(self) -> list[str]:
        """Sentences about what is unusual in the images or in how they are divided."""
        found = large_group_warning(self.groups), uneven_folds_warning(self.partition.folds)
        return [*self.remarks, *(sentence for sentence in found if sentence is not None)]

    @property
    def membership(self) -> Membership:
        """Who belongs where, as the home's register of known images keeps it."""
        return membership_of(self.name, self.partition)

    @property
    def test_not_independent(self) -> str:
        """How many sealed images other studies developed on, such as ``12 of 120``."""
        return f"{self.counts['num_test_not_independent']} of {self.counts['num_test']}"

    def images(self, size_pixels: int) -> npt.NDArray[np.uint8]:
        """Return the (N, S, S) uint8 development images at one size."""
        if size_pixels in self.sent:
            return self.sent[size_pixels][0]
        return load_images(self.development, size_pixels, self.home.cache)

    def masks(self, size_pixels: int) -> npt.NDArray[np.uint8] | None:
        """Return the (N, S, S) uint8 lesion masks of the development images, if there are any."""
        if size_pixels in self.sent:
            return self.sent[size_pixels][1]
        return load_masks(self.development, size_pixels, self.home.cache)

    def to_send(self) -> "StudyContext":
        """Return the study with its decoded images, for machines without the files."""
        sent = {}
        for size in image_sizes(self.spec):
            masks = self.masks(size) if _wants_masks(self.spec) else None
            # A plain array travels as one piece of memory; a memory map would name its file.
            sent[size] = (np.array(self.images(size)), None if masks is None else np.array(masks))
        return replace(self, sent=sent)


def membership_of(name: str, partition: Partition) -> Membership:
    """Return who belongs where in a study, as the home's register of known images keeps it."""
    return Membership(
        study=name,
        partition=partition.digest(),
        fingerprint=partition.fingerprint,
        development=tuple(partition.development.tolist()),
        sealed=tuple(partition.test.tolist()),
    )


def image_sizes(spec: StudySpec) -> list[int]:
    """Return the sizes, in pixels, at which trials of a study look at images.

    Raises:
        InputError: they are searched as an interval, which may hold hundreds.
    """
    if isinstance(spec.space.get("image_size_pixels"), Range):
        raise InputError(
            "space.image_size_pixels is an interval: give it as a list, such as [64, 96, 128], "
            "so that the images of each size can be sent to the machines."
        )
    return sorted({c.image_size_pixels for c in spec.configurations("image_size_pixels")})


def masks_for(
    context: StudyContext, hyperparameters: Hyperparameters
) -> npt.NDArray[np.uint8] | None:
    """Return the lesion masks at a configuration's size, if it learns from them."""
    if hyperparameters.mask_weight == 0:
        return None
    return context.masks(hyperparameters.image_size_pixels)


def make_context(
    spec: StudySpec,
    spec_text: str,
    *,
    home: Home,
    name: str | None,
    device: str,
    origin: str,
    notes: tuple[str, ...] = (),
) -> StudyContext:
    """Read and divide the data and say how the study is called.

    Args:
        spec: the checked study.
        spec_text: its file, verbatim.
        home: where things are kept.
        name: the study's name, or None for one made from ``origin`` and the dataset.
        device: PyTorch's name of the device.
        origin: name of the study file.
        notes: sentences about how the images were recognised.

    Raises:
        InputError: the data is not usable, or too little for the figures of a study.
    """
    dataset = load_dataset(spec.dataset, cache=home.cache, positive_needed=False)
    stem = origin.removesuffix(".toml").rsplit("/", 1)[-1]
    name = name or (stem if stem == dataset.name else f"{stem}-{dataset.name}")
    begun = _record_of(home, name)
    dataset, remark = _with_positive(dataset, spec, begun)
    remarks = [*notes, *check_files(dataset, home.cache), *([] if remark is None else [remark])]
    if begun is not None:
        spec = begun.identity.with_earlier_rules(spec)
    partition = make_partition(
        dataset,
        spec.dataset,
        seed=spec.study.seed,
        cache=home.cache,
        began_with=None if begun is None else begun.identity.partition,
    )
    if begun is None:
        check_division(dataset, partition)
    if (few := few_test_images_warning(dataset, partition)) is not None:
        remarks.append(few)
    known = KnownImages(home)
    known.add_images(dataset)
    developed = known.developed_elsewhere(membership_of(name, partition))
    context = StudyContext(
        name=name,
        spec=spec,
        spec_text=spec_text,
        home=home,
        device=device,
        partition=partition,
        development=dataset.subset(partition.development),
        counts=partition.counts() | {"num_test_not_independent": len(developed)},
        origin=origin,
        developed_by=tuple(sorted({study for studies in developed.values() for study in studies})),
        remarks=tuple(remarks),
        class_counts={
            class_name: int(np.sum(dataset.labels == label))
            for label, class_name in enumerate(dataset.class_names)
        },
    )
    # Decoding here names a damaged image before any trial starts.
    context.images(spec.dataset.image_size_pixels)
    if _wants_masks(spec) and context.development.masks_digest is None:
        raise InputError(
            f"mask_weight needs lesion masks, and {dataset.name} has none (BUSI's stand beside the "
            "images as NAME_mask.png, a table names them in its column mask); set mask_weight = 0."
        )
    return context


@dataclass(frozen=True)
class _Begun:
    """What a study that has begun holds to: its identity, and the class that is its disease."""

    identity: Identity
    positive: str


def _record_of(home: Home, name: str) -> _Begun | None:
    """Return what a study began with; None if it has not begun.

    A storage that is away or damaged is none of this question: whoever searches says so.
    """
    if home.has_local_storage and not (home.root / "optuna.db").exists():
        return None
    try:
        with storage_errors(home):
            record = StudyRecord(find_study(home, name))
            identity = record.identity
    except BusiSearchError:
        return None
    return None if identity is None else _Begun(identity, record.positive)


def _with_positive(
    dataset: ImageDataset, spec: StudySpec, begun: _Begun | None
) -> tuple[ImageDataset, str | None]:
    """The dataset with the class that the study is about, and a sentence if it may surprise.

    Raises:
        InputError: the study has not begun, states no class, and the names do not tell.
    """
    names = dataset.class_names
    if spec.dataset.positive is not None or dataset.simulated:
        return dataset, None
    if begun is None or begun.positive not in names:
        positive = positive_class(names, None, where=str(spec.dataset.path))
        return replace(dataset, positive=positive), None
    positive = names.index(begun.positive)
    found = replace(dataset, positive=positive)
    if positive == infer_positive(names):
        return found, None
    return found, (
        f"The study took '{begun.positive}' for the disease when it began, and keeps it; for "
        "another class begin another study, with dataset.positive and --name NEW."
    )


def _wants_masks(spec: StudySpec) -> bool:
    return any(c.mask_weight > 0 for c in spec.configurations("mask_weight"))


def reopen_study(
    study: optuna.Study, *, home: Home, device: str = "cpu", data: str | None = None
) -> StudyContext:
    """Prepare a study again from what it stored about itself.

    Args:
        study: the study.
        home: where things are kept on this machine.
        device: PyTorch's name of the device trials run on.
        data: where its images are on this machine, if not where the study file says.

    Raises:
        InputError: it was named but never begun, its images are gone, unusable or changed, or they
            are not divided any more as they were.
    """
    record = StudyRecord(study)
    identity = record.identity
    if identity is None:
        raise InputError(f"Study '{study.study_name}' has not begun; run it first.")
    spec = identity.load_spec()
    if data is not None:
        spec = spec.model_copy(update={"dataset": spec.dataset.model_copy(update={"path": data})})
    context = make_context(
        spec,
        record.spec_text,
        home=home,
        name=study.study_name,
        device=device,
        origin=record.origin,
    )
    if (changed := identity.change_of_images(context.partition.fingerprint)) is not None:
        raise InputError(f"The images of study '{study.study_name}' {changed}; restore them.")
    if context.partition.digest() != identity.partition:
        made_by = record.versions.get("busi-search", "an earlier version")
        raise InputError(
            f"Study '{study.study_name}' {CHANGED_DIVISION}; restore the file of groups that it "
            f"began with, or open it with what it was made by, busi-search {made_by}."
        )
    # Studies that began before there was a register, or on another machine.
    KnownImages(home).add(context.membership)
    return context
