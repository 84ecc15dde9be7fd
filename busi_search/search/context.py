"""All that a trial needs to know about its study; travels to every worker."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import optuna

from busi_search.data.adequacy import check_division, few_test_images_warning
from busi_search.data.classes import infer_positive, positive_class
from busi_search.data.dataset import ImageDataset
from busi_search.data.folds import large_group_warning, uneven_folds_warning
from busi_search.data.geometry import WHOLE, Box, Geometry, geometry_of
from busi_search.data.image_cache import load_images, load_masks
from busi_search.data.known_images import KnownImages, Membership
from busi_search.data.lesions import check_lesions, find_lesions
from busi_search.data.partition import Partition, make_partition
from busi_search.data.screen_crop import find_screen_crop
from busi_search.data.shortcuts import check_files
from busi_search.data.sources import load_dataset
from busi_search.errors import BusiSearchError, InputError
from busi_search.files import user_path
from busi_search.home import Home
from busi_search.search.store.errors import storage_errors
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import (
    CHANGED_DIVISION,
    Identity,
    ImagesAt,
    StudyRecord,
)
from busi_search.spec import FROM_DATASET, Hyperparameters, Range, StudySpec

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
        screen: the part of the images outside of which all development images are alike, where a
            trial may ask for it; None: nothing is to be cut away.
        lesions_digest: what changes with any lesion mask or box, where a trial may look at one.
        sent: images, and masks, by size and geometry, for workers that cannot read the files; (N,
            S, S) or (N, 2, S, S) uint8.
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
    screen: Box | None = None
    lesions_digest: str | None = None
    sent: Mapping[tuple[int, Geometry], tuple[Images, Images | None]] = field(
        default_factory=dict, repr=False
    )

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

    def geometry(self, hyperparameters: Hyperparameters) -> Geometry:
        """Return what a configuration sees of an image."""
        return geometry_of(hyperparameters, self.screen)

    def images(self, size_pixels: int, geometry: Geometry = WHOLE) -> npt.NDArray[np.uint8]:
        """Return the (N, S, S) or (N, 2, S, S) uint8 development images at one size."""
        if (size_pixels, geometry) in self.sent:
            return self.sent[size_pixels, geometry][0]
        return load_images(self.development, size_pixels, self.home.cache, geometry)

    def masks(self, size_pixels: int, geometry: Geometry = WHOLE) -> npt.NDArray[np.uint8] | None:
        """Return the uint8 lesion masks of the development images, as the images, if there are."""
        if (size_pixels, geometry) in self.sent:
            return self.sent[size_pixels, geometry][1]
        return load_masks(self.development, size_pixels, self.home.cache, geometry)

    def images_for(self, hyperparameters: Hyperparameters) -> npt.NDArray[np.uint8]:
        """Return the development images as a configuration sees them."""
        return self.images(hyperparameters.image_size_pixels, self.geometry(hyperparameters))

    def to_send(self) -> "StudyContext":
        """Return the study with its decoded images, for machines without the files."""
        sent = {}
        for size, geometry in image_forms(self.spec, self.screen):
            masks = self.masks(size, geometry) if _wants_masks(self.spec) else None
            images = np.array(self.images(size, geometry))
            # A plain array travels as one piece of memory; a memory map would name its file.
            sent[size, geometry] = (images, None if masks is None else np.array(masks))
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


def fold_sizes(context: StudyContext) -> list[int]:
    """Return how many images each fold of a study is scored on."""
    return [len(fold.validation) for fold in context.partition.folds]


def image_forms(spec: StudySpec, screen: Box | None) -> list[tuple[int, Geometry]]:
    """Return the sizes, in pixels, and the geometries in which trials of a study see images.

    Args:
        spec: the study.
        screen: what of its images is no screen furniture.

    Raises:
        InputError: they are searched as an interval, which may hold hundreds.
    """
    for name, list_of in (("image_size_pixels", "[64, 96, 128]"), ("region_margin", "[0.25, 0.5]")):
        if isinstance(spec.space.get(name), Range):
            raise InputError(
                f"space.{name} is an interval: give it as a list, such as {list_of}, so that the "
                "images of each can be sent to the machines."
            )
    forms = {
        (found.image_size_pixels, geometry_of(found, screen)): None
        for found in spec.configurations(*FROM_DATASET)
    }
    return sorted(forms, key=lambda form: (form[0], form[1].tag))


def masks_for(
    context: StudyContext, hyperparameters: Hyperparameters
) -> npt.NDArray[np.uint8] | None:
    """Return the lesion masks at a configuration's size, if it learns from them."""
    if hyperparameters.mask_weight == 0:
        return None
    return context.masks(hyperparameters.image_size_pixels, context.geometry(hyperparameters))


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
    if len(partition.folds) != spec.dataset.num_folds:
        # As many as there are sites, or as the authors give.
        folded = spec.dataset.model_copy(update={"num_folds": len(partition.folds)})
        spec = spec.model_copy(update={"dataset": folded})
    if begun is None:
        check_division(dataset, partition)
    if (few := few_test_images_warning(dataset, partition)) is not None:
        remarks.append(few)
    known = KnownImages(home)
    known.add_images(dataset)
    developed = known.developed_elsewhere(membership_of(name, partition))
    development = dataset.subset(partition.development)
    seen = [geometry_of(found) for found in spec.configurations("region")]
    needs_lesion = any(geometry.needs_lesion for geometry in seen)
    if needs_lesion:
        remarks += check_lesions(development, find_lesions(development, home.cache))
    screen = None
    if any(found.crop == "auto" for found in spec.configurations("crop")):
        screen = find_screen_crop(development, home.cache)
        remarks.append(_said_of_screen(screen))
    context = StudyContext(
        name=name,
        spec=spec,
        spec_text=spec_text,
        home=home,
        device=device,
        partition=partition,
        development=development,
        counts=partition.counts() | {"num_test_not_independent": len(developed)},
        origin=origin,
        developed_by=tuple(sorted({study for studies in developed.values() for study in studies})),
        remarks=tuple(remarks),
        screen=screen,
        lesions_digest=development.lesions_digest if needs_lesion else None,
        class_counts={
            class_name: int(np.sum(dataset.labels == label))
            for label, class_name in enumerate(dataset.class_names)
        },
    )
    # Decoding here names a damaged image before any trial starts.
    context.images_for(spec.resolve({}))
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

    An unreachable or damaged storage is not reported here; the search itself reports it.
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
        positive = positive_class(names, None, where=spec.dataset.path or dataset.name)
        return replace(dataset, positive=positive), None
    positive = names.index(begun.positive)
    found = replace(dataset, positive=positive)
    if positive == infer_positive(names):
        return found, None
    return found, (
        f"The study has treated '{begun.positive}' as the disease from its beginning and keeps it; "
        "for another class, start another study with dataset.positive and --name NEW."
    )


def _said_of_screen(screen: Box | None) -> str:
    if screen is None:
        return 'crop = "auto" found nothing that all images have in common, so nothing is cut away.'
    edges = {"left": screen.left, "above": screen.top, "right": 1 - screen.right,
             "below": 1 - screen.bottom}  # fmt: skip
    cut = ", ".join(f"{share:.1%} {edge}" for edge, share in edges.items() if share > 0)
    return f'crop = "auto" cuts away what all images have in common: {cut}.'


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
    spec = at_place(identity.load_spec(), record, home, data=data)
    place = spec.dataset.path
    if place is not None and not user_path(place).exists():
        raise InputError(
            f"{place}: no such folder or file; if the images of study '{study.study_name}' were "
            "moved, name their place with --data PATH (`busi-search report` and `evaluate` take "
            "it, and it is remembered)."
        )
    context = make_context(
        spec,
        record.spec_text,
        home=home,
        name=study.study_name,
        device=device,
        origin=record.origin,
    )
    if (changed := identity.change_of_images(context.partition.fingerprint)) is not None:
        raise InputError(
            f"The images of study '{study.study_name}' at {_places(spec)} {changed}; restore "
            "them, or name the folder with those it began with (--data PATH)."
        )
    if (changed := identity.change_of_lesions(context.lesions_digest or "")) is not None:
        raise InputError(f"Study '{study.study_name}': {changed}; restore them.")
    if context.partition.digest() != identity.partition:
        made_by = record.versions.get("busi-search", "an earlier version")
        raise InputError(
            f"Study '{study.study_name}' {CHANGED_DIVISION}; restore the file of groups that it "
            f"began with, or open it with what it was made by, busi-search {made_by}."
        )
    # Studies that began before there was a register, or on another machine.
    KnownImages(home).add(context.membership)
    if data is not None:
        note_place(study, context)
    return context


def at_place(
    spec: StudySpec, record: StudyRecord, home: Home, *, data: str | None = None
) -> StudySpec:
    """Return a study file with the place where its images are on this machine.

    Args:
        spec: the study file.
        record: what the study keeps about itself, the place where its images were last found too.
        home: the home, with which the images may have been moved.
        data: the place, if somebody names it.

    Raises:
        InputError: one place is named for a study of several sources.
    """
    if spec.dataset.sources and data is not None:
        raise InputError(
            f"This study has {len(spec.dataset.sources)} sources, and --data names one place; put "
            f"their images back where the study file says ({_places(spec)})."
        )
    written, noted = spec.dataset.path, record.images_at
    if data is None and noted is not None and written is not None:
        candidates = [noted.absolute, str(home.root / noted.from_home), written]
        data = next((path for path in candidates if user_path(path).exists()), None)
    update = {} if data is None else {"path": data}
    if noted is not None and noted.groups is not None and Path(noted.groups).is_file():
        update["groups"] = noted.groups
    return spec.model_copy(update={"dataset": spec.dataset.model_copy(update=update)})


def _places(spec: StudySpec) -> str:
    """Where a study's images are, for a sentence."""
    section = spec.dataset
    return ", ".join(entry.path for entry in section.sources) or str(section.path)


def note_place(study: optuna.Study, context: StudyContext) -> None:
    """Keep where a study's images were found; a place that is noted is not written again."""
    if context.spec.dataset.path is None:
        return
    absolute = user_path(context.spec.dataset.path).resolve()
    try:
        from_home = os.path.relpath(absolute, context.home.root)
    except ValueError:  # On another drive of Windows.
        from_home = str(absolute)
    groups = user_path(context.spec.dataset.groups)
    is_file = context.spec.dataset.groups not in ("auto", "none")
    place = ImagesAt(str(absolute), from_home, str(groups.resolve()) if is_file else None)
    record = StudyRecord(study)
    if record.images_at != place:
        record.set_images_at(place)
