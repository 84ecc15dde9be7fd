"""All that a trial needs to know about its study; travels to every worker."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.folds import large_group_warning, uneven_folds_warning
from busi_search.data.geometry import WHOLE, Box, Geometry, geometry_of
from busi_search.data.image_cache import load_images, load_masks
from busi_search.data.known_images import Membership
from busi_search.data.partition import Partition
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.search.found_lesions import FoundLesions
from busi_search.spec import FROM_DATASET, Hyperparameters, Range, StudySpec
from busi_search.training.lesion_finder import SOURCE_RATIO

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
        return geometry_of(hyperparameters, self.screen, self.spec.dataset.lesions)

    def model_input(self, hyperparameters: Hyperparameters) -> tuple[int, Geometry]:
        """Return the side and the geometry of the images that a registered model takes.

        They are those of a configuration, unless the model finds the lesion by itself.
        """
        size, geometry = hyperparameters.image_size_pixels, self.geometry(hyperparameters)
        return (SOURCE_RATIO * size, geometry.whole) if geometry.finds_lesion else (size, geometry)

    @property
    def learns_lesions(self) -> bool:
        """Whether networks must learn first where lesions are: this home has not all of them."""
        looks = {self.geometry(found) for found in self.spec.configurations(*FROM_DATASET)}
        found = self.found_lesions
        return any(geometry.finds_lesion and not found.learned(geometry) for geometry in looks)

    @property
    def found_lesions(self) -> FoundLesions:
        """What the network of every fold finds, for trials that ask for it."""
        return FoundLesions(
            self.development,
            self.partition.folds,
            seed=self.spec.study.seed,
            cache=self.home.cache,
            device=self.device,
        )

    def images(self, size_pixels: int, geometry: Geometry = WHOLE) -> npt.NDArray[np.uint8]:
        """Return the (N, S, S) or (N, 2, S, S) uint8 development images at one size."""
        if (size_pixels, geometry) in self.sent:
            return self.sent[size_pixels, geometry][0]
        if geometry.finds_lesion:
            return self.found_lesions.regions(size_pixels, geometry)
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
            masks = self.masks(size, geometry) if wants_masks(self.spec) else None
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
        (found.image_size_pixels, geometry_of(found, screen, spec.dataset.lesions)): None
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


def wants_masks(spec: StudySpec) -> bool:
    """Return whether a trial of a study may learn from lesion masks."""
    return any(c.mask_weight > 0 for c in spec.configurations("mask_weight"))
