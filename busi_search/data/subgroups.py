"""Parts of a dataset by what is known of its images, and the share of each class in them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset

NOT_KNOWN = "not known"
# A property with more values tells images apart and not groups of them.
MAX_LEVELS = 30
_WORDS = {"birads": "BI-RADS"}
_AGE_LIMITS = (40, 50, 60, 70)
_AGE_BANDS = ("under 40", "40 to 49", "50 to 59", "60 to 69", "70 and over")
# Share of the image that the lesion covers: about a third of BUS-BRA's and BUSI's images each.
_SIZE_LIMITS = (0.04, 0.10)
_SIZE_BANDS = ("under 4 % of the image", "4 to 10 % of the image", "over 10 % of the image")


@dataclass(frozen=True)
class Subgroup:
    """The images that share a value of a property.

    Attributes:
        by: the property, in words.
        level: its value, or a band of values.
        num_images: how many images have it.
        counts: number of images of every class, by its name.
    """

    by: str
    level: str
    num_images: int
    counts: Mapping[str, int]


def find_subgroups(dataset: ImageDataset) -> list[Subgroup]:
    """Return the subgroups of a dataset by every property that its source gives.

    Ages become bands of years, masks bands of the share of the image that the lesion covers.
    Properties with one value, or with more than ``MAX_LEVELS``, are left out.

    Args:
        dataset: the images; masks are read.

    Raises:
        InputError: a mask cannot be read.
    """
    found = []
    for by, levels in image_levels(dataset).items():
        counts = Counter(levels)
        if not 1 < len(counts) <= MAX_LEVELS:
            continue
        column = np.asarray(levels)
        for level in sorted(counts, key=level_order):
            labels = dataset.labels[column == level]
            found.append(Subgroup(by, level, counts[level], _by_class(dataset, labels)))
    return found


def images_per_patient(dataset: ImageDataset) -> dict[int, int]:
    """Return how many patients have so many images, by the number of images; empty: not known."""
    known = Counter(patient for patient in dataset.patients or () if patient is not None)
    return dict(sorted(Counter(known.values()).items()))


def image_levels(dataset: ImageDataset) -> dict[str, list[str]]:
    """Return the level of each of the N images, by property; ages and masks become bands.

    Args:
        dataset: the images; masks are read, pixels are not.

    Raises:
        InputError: a mask cannot be read.
    """
    found: dict[str, list[str]] = {}
    for name, values in dataset.properties.items():
        if name == "age":
            found["age"] = [_age_band(value) for value in values]
        else:
            words = _WORDS.get(name, name.replace("_", " "))
            found[words] = [value.strip() or NOT_KNOWN for value in values]
    if dataset.masks_digest is not None:
        found["lesion size"] = [
            NOT_KNOWN if mask is None else _size_band(float(np.mean(mask > 127)))
            for mask in dataset.masks()
        ]
    return found


def _by_class(dataset: ImageDataset, labels: npt.NDArray[np.int64]) -> dict[str, int]:
    return {name: int(np.sum(labels == label)) for label, name in enumerate(dataset.class_names)}


def _age_band(written: str) -> str:
    try:
        # DICOM writes 057Y.
        years = float(written.strip().upper().removesuffix("Y"))
    except ValueError:
        return NOT_KNOWN
    if not 0 < years < 130:
        return NOT_KNOWN
    return _AGE_BANDS[int(np.searchsorted(_AGE_LIMITS, years, side="right"))]


def _size_band(covered: float) -> str:
    if covered == 0:
        return "no lesion marked"
    return _SIZE_BANDS[int(np.searchsorted(_SIZE_LIMITS, covered, side="right"))]


def level_order(level: str) -> tuple[int, str]:
    """Return the key that sorts levels: bands in their order, what is not known last."""
    bands = (*_AGE_BANDS, *_SIZE_BANDS)
    if level in bands:
        return bands.index(level), level
    return len(bands) + (level == NOT_KNOWN), level
