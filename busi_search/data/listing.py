"""A list of image files with what is known of each, and the dataset that it makes."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from busi_search.data.classes import positive_class
from busi_search.data.containers import Container, inspect_file
from busi_search.data.dataset import ImageDataset
from busi_search.data.dicom import cut_like_image
from busi_search.data.file_digests import file_digests
from busi_search.data.geometry import Box
from busi_search.data.images import (
    GreyImage,
    decode_image,
    decode_mask,
    may_be_deep,
    white_level_of,
)
from busi_search.errors import InputError


@dataclass(frozen=True)
class ListedImage:
    """One image file and what is known of it.

    Attributes:
        file: its path below the listing's root, with slashes.
        label: name of its class.
        patient: what tells its patient from others; None: not known.
        masks: files below the root that show its lesions; their union counts.
        box: where the lesion is, as the authors say; None: they do not.
        fold: its part in the authors' cross-validation; None: they give none.
        part: ``train``, ``val`` or ``test`` of the authors' split; None: they give none.
        properties: what else is known, such as ``site``, ``device``, ``age`` or ``birads``.
        frame: which frame of a file of several it is, counted from 1; None: the file is one image.
    """

    file: str
    label: str
    patient: str | None = None
    masks: tuple[str, ...] = ()
    box: Box | None = None
    fold: str | None = None
    part: str | None = None
    properties: Mapping[str, str] = field(default_factory=dict)
    frame: int | None = None

    @property
    def name(self) -> str:
        """What the image is called: its file, and of several frames which, as ``a.dcm#3``."""
        return self.file if self.frame is None else f"{self.file}#{self.frame}"


@dataclass(frozen=True)
class Listing:
    """The images of a dataset, listed.

    Attributes:
        name: short name of the dataset.
        root: the folder that the files lie in.
        images: at least one; each file once.
        notes: sentences that are shown when the dataset is read.
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
    frames: tuple[int | None, ...]

    @cached_property
    def white_level(self) -> float | None:
        """Value of white in images of more than 8 bits: it holds all values of the whole set."""
        found = (
            white_level_of(self.root / path, frame)
            for path, frame in zip(self.paths, self.frames, strict=True)
        )
        return max((level for level in found if level is not None), default=None)

    def read(self, indices: Sequence[int]) -> Iterator[GreyImage]:
        """Yield the (H, W) uint8 image of each index."""
        for index in indices:
            path = self.root / self.paths[index]
            white = self.white_level if may_be_deep(path) else None
            yield decode_image(path, shown=str(path), frame=self.frames[index], white=white)

    def read_masks(self, indices: Sequence[int]) -> Iterator[GreyImage | None]:
        """Yield the (H, W) uint8 mask of each index, several masks of one image joined."""
        for index in indices:
            files = [self.root / name for name in self.masks[index]]
            masks = [decode_mask(path, shown=str(path)) for path in files]
            if len({mask.shape for mask in masks}) > 1:
                raise InputError(f"{files[0]}: the masks of one image differ in size.")
            mask = np.max(masks, axis=0) if masks else None
            yield None if mask is None else cut_like_image(mask, self.root / self.paths[index])

    def masks_digest(self, indices: Sequence[int]) -> str | None:
        """Return 16 hexadecimal digits of the mask files' bytes, None if there are no files."""
        names = [name for index in indices for name in self.masks[index]]
        digests = file_digests(self.root, names)
        return hashlib.sha256("".join(digests).encode()).hexdigest()[:16] if names else None

    def containers(self, indices: Sequence[int]) -> list[Container]:
        """Return what each image's file holds."""
        return [inspect_file(self.root / self.paths[index]) for index in indices]


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
    files = tuple(image.file for image in listing.images)
    paths = tuple(image.name for image in listing.images)
    if len(set(paths)) < len(paths):
        twice = Counter(paths).most_common(1)[0][0]
        raise InputError(f"{listing.root}: '{twice}' is listed twice; keep one row.")
    label_of = {name: label for label, name in enumerate(class_names)}
    keys = sorted({key for image in listing.images for key in image.properties})
    known = [image.patient is not None for image in listing.images]
    folds = [image.fold for image in listing.images]
    parts = [image.part for image in listing.images]
    boxes = tuple(image.box for image in listing.images)
    return ImageDataset(
        name=listing.name,
        class_names=class_names,
        positive=positive_class(
            class_names, positive, where=str(listing.root), needed=positive_needed
        ),
        labels=np.asarray([label_of[i.label] for i in listing.images], dtype=np.int64),
        paths=paths,
        digests=_digests(listing.root, files, cache),
        official=tuple(part or "train" for part in parts) if any(parts) else None,
        reader=ListedReader(
            root=listing.root.resolve(),
            paths=files,
            masks=tuple(image.masks for image in listing.images),
            frames=tuple(image.frame for image in listing.images),
        ),
        positions=np.arange(len(paths), dtype=np.int64),
        patients=tuple(image.patient for image in listing.images) if any(known) else None,
        folds=tuple(folds) if any(fold is not None for fold in folds) else None,
        boxes=boxes if any(box is not None for box in boxes) else None,
        properties={
            key: tuple(image.properties.get(key, "") for image in listing.images) for key in keys
        },
        notes=listing.notes,
        files=files if len(set(files)) < len(files) else None,
    )


def _digests(root: Path, files: Sequence[str], cache: Path | None) -> tuple[str, ...]:
    """The digest of each file; one of several frames is read once."""
    names = list(dict.fromkeys(files))
    known = dict(zip(names, file_digests(root, names, cache), strict=True))
    return tuple(known[file] for file in files)
