"""A list of image files with what is known of each, and the dataset that it makes."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from busi_search.data.classes import positive_class
from busi_search.data.dataset import ImageDataset
from busi_search.data.file_digests import file_digests
from busi_search.data.images import GreyImage, decode_image, decode_mask, image_kind
from busi_search.errors import InputError


@dataclass(frozen=True)
class ListedImage:
    """One image file and what is known of it.

    Attributes:
        file: its path below the listing's root, with slashes.
        label: name of its class.
        patient: what tells its patient from others; None: not known.
        masks: files below the root that show its lesions; their union counts.
        fold: its part in the authors' cross-validation; None: they give none.
        part: ``train``, ``val`` or ``test`` of the authors' split; None: they give none.
        properties: what else is known, such as ``site``, ``device``, ``age`` or ``birads``.
    """

    file: str
    label: str
    patient: str | None = None
    masks: tuple[str, ...] = ()
    fold: str | None = None
    part: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Listing:
    """The images of a dataset, listed.

    Attributes:
        name: short name of the dataset.
        root: the folder that the files lie in.
        images: at least one; each file once.
        notes: sentences that whoever reads the dataset is told.
    """

    name: str
    root: Path
    images: Sequence[ListedImage]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ListedReader:
    """Reads listed image files and their masks below ``root``."""

    root: Path
    paths: tuple[str, ...]
    masks: tuple[tuple[str, ...], ...]

    def read(self, indices: Sequence[int]) -> Iterator[GreyImage]:
        """Yield the (H, W) uint8 image of each index."""
        for index in indices:
            path = self.root / self.paths[index]
            yield decode_image(path, shown=str(path))

    def read_masks(self, indices: Sequence[int]) -> Iterator[GreyImage | None]:
        """Yield the (H, W) uint8 mask of each index, several masks of one image joined."""
        for index in indices:
            files = [self.root / name for name in self.masks[index]]
            masks = [decode_mask(path, shown=str(path)) for path in files]
            if len({mask.shape for mask in masks}) > 1:
                raise InputError(f"{files[0]}: the masks of one image differ in size.")
            yield np.max(masks, axis=0) if masks else None

    def masks_digest(self, indices: Sequence[int]) -> str | None:
        """Return 16 hexadecimal digits of the mask files' bytes, None if there are no files."""
        names = [name for index in indices for name in self.masks[index]]
        digests = file_digests(self.root, names)
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16] if names else None

    def kinds(self, indices: Sequence[int]) -> list[str]:
        """Return each image's file format and colour mode, such as ``PNG RGB``."""
        return [image_kind(self.root / self.paths[index]) for index in indices]


def dataset_of_listing(
    listing: Listing,
    *,
    positive: str | None = None,
    positive_needed: bool = True,
    cache: Path | None = None,
) -> ImageDataset:
    """Return the dataset of a listing; pixels are not read yet.

    Args:
        listing: the images; classes are sorted by name.
        positive: name of the class that is the disease (default: told from the names).
        positive_needed: refuse names that do not tell the disease.
        cache: folder where the digests of the files are kept for the next time.

    Raises:
        InputError: fewer than two classes, a file twice, a file that is empty, too large or a link
            out of the folder, or it cannot be told which class is the disease.
    """
    class_names = tuple(sorted({image.label for image in listing.images}))
    if len(class_names) < 2:
        raise InputError(
            f"{listing.root}: all images are of the class '{class_names[0]}'; expected at least "
            "two classes, such as benign and malignant."
        )
    paths = tuple(image.file for image in listing.images)
    if len(set(paths)) < len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise InputError(f"{listing.root}: '{twice}' is listed twice; keep one row.")
    label_of = {name: label for label, name in enumerate(class_names)}
    keys = sorted({key for image in listing.images for key in image.properties})
    known = [image.patient is not None for image in listing.images]
    folds = [image.fold for image in listing.images]
    parts = [image.part for image in listing.images]
    return ImageDataset(
        name=listing.name,
        class_names=class_names,
        positive=positive_class(
            class_names, positive, where=str(listing.root), needed=positive_needed
        ),
        labels=np.asarray([label_of[i.label] for i in listing.images], dtype=np.int64),
        paths=paths,
        digests=tuple(file_digests(listing.root, paths, cache)),
        official=tuple(part or "train" for part in parts) if any(parts) else None,
        reader=ListedReader(listing.root.resolve(), paths, tuple(i.masks for i in listing.images)),
        positions=np.arange(len(paths), dtype=np.int64),
        patients=tuple(image.patient for image in listing.images) if any(known) else None,
        folds=tuple(folds) if any(fold is not None for fold in folds) else None,
        properties={
            key: tuple(image.properties.get(key, "") for image in listing.images) for key in keys
        },
        notes=listing.notes,
    )
