"""The only way for a model to see test images; every opening is counted."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.dataset import ImageDataset
from busi_search.data.geometry import WHOLE, Geometry
from busi_search.data.image_cache import load_images
from busi_search.data.ledger import OpeningsLedger
from busi_search.data.partition import Partition
from busi_search.data.sources import load_dataset
from busi_search.errors import InputError
from busi_search.spec import DatasetSection


@dataclass(frozen=True)
class SealedTest:
    """The test part, opened.

    Attributes:
        images: (N, S, S) uint8, or (N, 2, S, S) of two regions.
        labels: (N,) int64.
        groups: (N,) group of each image.
        has_twin: (N,) whether a near-duplicate, or another image of the same known group, is in the
            development part, as official splits allow.
        paths: N names.
        dataset: the N images with what else is known of them, such as their device.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    has_twin: npt.NDArray[np.bool_]
    paths: tuple[str, ...]
    dataset: ImageDataset


def open_sealed_test(
    section: DatasetSection,
    partition: Partition,
    *,
    size_pixels: int,
    cache: Path,
    ledger: OpeningsLedger,
    reason: Mapping[str, Any],
    geometry: Geometry = WHOLE,
) -> SealedTest:
    """Record an opening, then read the test images.

    The entry is on disk before the first pixel is read, so the opening counts whatever happens
    next.

    Args:
        section: the study's ``[dataset]`` section.
        partition: the study's division.
        size_pixels: side S.
        cache: folder of the image cache.
        ledger: the study's ledger.
        reason: who opens it for which model.
        geometry: what of an image that model sees.

    Raises:
        InputError: the data is gone or is not the data the study was made on.
        BusiSearchError: the ledger was changed.
    """
    dataset = load_dataset(section, cache=cache, positive_needed=False)
    if dataset.fingerprint != partition.fingerprint:
        raise InputError(
            f"The images changed since the study began ({partition.fingerprint} → "
            f"{dataset.fingerprint}); restore them to evaluate."
        )
    ledger.append("opened", {**reason, "partition": partition.digest()})
    test = partition.test
    part = dataset.subset(test)
    return SealedTest(
        images=np.array(load_images(part, size_pixels, cache, geometry)),
        labels=part.labels,
        groups=partition.groups[test],
        has_twin=np.isin(partition.groups[test], partition.development_groups),
        paths=part.paths,
        dataset=part,
    )
