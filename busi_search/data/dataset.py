"""What every source of images gives: labels, names, digests, and a reader of pixels."""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Protocol, TypeVar, overload

import numpy as np
import numpy.typing as npt

from busi_search.data.containers import Container
from busi_search.data.geometry import Box, lesion_box
from busi_search.data.images import GreyImage
from busi_search.data.progress import counted

T = TypeVar("T")


class ImageReader(Protocol):
    """Gives the pixels of a source's images; picklable, so that workers can read them too."""

    def read(self, indices: Sequence[int]) -> Iterator[GreyImage]:
        """Yield the (H, W) uint8 image of each index, in the order asked for."""
        ...

    def read_masks(self, indices: Sequence[int]) -> Iterator[GreyImage | None]:
        """Yield the (H, W) uint8 lesion mask of each index, 255 on the lesion; None: not known."""
        ...

    def masks_digest(self, indices: Sequence[int]) -> str | None:
        """Return what changes with any of these masks; None if there are none."""
        ...

    def containers(self, indices: Sequence[int]) -> list[Container]:
        """Return what each image's file holds; empty where images have no files."""
        ...

    @property
    def white_level(self) -> float | None:
        """Value of white in images of more than 8 bits; None: there are none."""
        ...


@dataclass(frozen=True)
class ImageDataset:
    """Images with labels; pixels are read on demand.

    Attributes:
        name: short name, used in study names.
        class_names: C names.
        positive: index of the class whose AUC and AUPR binary data reports (malignant).
        labels: (N,) int64 indices into ``class_names``.
        paths: N names, relative to the source, unique.
        digests: N hexadecimal SHA-256 of each image's content.
        official: N names of official parts (``train``, ``val``, ``test``), or None.
        reader: where the pixels come from.
        positions: (N,) index of each image in ``reader``.
        simulated: whether the images are phantoms, whose scores mean nothing for patients.
        patients: N names that tell each image's patient from others, None where one is not known;
            None if none is.
        folds: N names of the authors' cross-validation folds, or None.
        boxes: N places of lesions that the authors give, None where one is not known; None if none
            is. Masks say it better where there are any.
        properties: N values of each further property, such as ``site``, by name; empty: not known.
        notes: sentences about how the data was read, which its user is told.
        files: N names of the file of each image, where several images are frames of one file;
            None: each has its own.
    """

    name: str
    class_names: tuple[str, ...]
    positive: int
    labels: npt.NDArray[np.int64]
    paths: tuple[str, ...]
    digests: tuple[str, ...]
    official: tuple[str, ...] | None
    reader: ImageReader
    positions: npt.NDArray[np.int64]
    simulated: bool = False
    patients: tuple[str | None, ...] | None = None
    folds: tuple[str | None, ...] | None = None
    boxes: tuple[Box | None, ...] | None = None
    properties: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that change with any image, label, name or their order."""
        digest = hashlib.sha256("\n".join(self.class_names).encode())
        for path, content, label in zip(self.paths, self.digests, self.labels, strict=True):
            # A name in another encoding than UTF-8 counts by its bytes.
            line = f"\n{path}\t{content}\t{label}"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def subset(self, indices: npt.NDArray[np.int64]) -> "ImageDataset":
        """Return the dataset of the given images only, in the given order."""
        chosen = [int(index) for index in indices]
        return replace(
            self,
            labels=self.labels[indices],
            paths=_pick(self.paths, chosen),
            digests=_pick(self.digests, chosen),
            official=self.official and _pick(self.official, chosen),
            positions=self.positions[indices],
            patients=self.patients and _pick(self.patients, chosen),
            folds=self.folds and _pick(self.folds, chosen),
            boxes=self.boxes and _pick(self.boxes, chosen),
            properties={key: _pick(values, chosen) for key, values in self.properties.items()},
            files=self.files and _pick(self.files, chosen),
        )

    def images(self) -> Iterator[GreyImage]:
        """Yield every image, (H, W) uint8, in order."""
        found = self.reader.read([int(position) for position in self.positions])
        return counted(found, "images read", len(self))

    def masks(self) -> Iterator[GreyImage | None]:
        """Yield every image's lesion mask, (H, W) uint8, in order; None where it is not known."""
        return self.reader.read_masks([int(position) for position in self.positions])

    def containers(self) -> list[Container]:
        """Return what every image's file holds; empty where images have no files."""
        return self.reader.containers([int(position) for position in self.positions])

    def lesions(self) -> Iterator[Box | None]:
        """Yield where every image's lesion is, by its mask or else by the authors' box.

        None: there is no mask and no box, or the mask is empty.
        """
        given: tuple[Box | None, ...] = self.boxes or (None,) * len(self)
        for box, mask in zip(given, self.masks(), strict=True):
            yield box if mask is None else lesion_box(mask)

    @cached_property
    def lesions_digest(self) -> str | None:
        """16 hexadecimal digits that change with any mask or box; None where there are none."""
        if self.boxes is None:
            return self.masks_digest
        content = f"{self.masks_digest}{self.boxes}"
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def kinds(self) -> list[str]:
        """Return every image's file format and colour mode, such as ``PNG RGB``."""
        return [found.kind for found in self.containers()] or [""] * len(self)

    @property
    def white_level(self) -> float | None:
        """Value of white in images of more than 8 bits; None for a source without any."""
        return self.reader.white_level

    @property
    def masks_digest(self) -> str | None:
        """16 hexadecimal digits that change with any mask; None for a source without masks."""
        return self.reader.masks_digest([int(position) for position in self.positions])


def _pick(values: tuple[T, ...], chosen: Sequence[int]) -> tuple[T, ...]:
    return tuple(values[index] for index in chosen)


class ImagesOnDemand(Sequence[GreyImage]):
    """The images of a dataset as a sequence that never holds all of them.

    Those looked at last stay in memory, as far as the limit goes: small datasets are decoded once.
    """

    def __init__(self, dataset: ImageDataset, max_bytes: int = 2**30) -> None:
        """Take a dataset, and how many bytes of its decoded images may be kept."""
        self._dataset, self._room = dataset, max_bytes
        self._kept: OrderedDict[int, GreyImage] = OrderedDict()

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[GreyImage]:
        for index, image in enumerate(self._dataset.images()):
            self._keep(index, image)
            yield image

    @overload
    def __getitem__(self, index: int) -> GreyImage: ...
    @overload
    def __getitem__(self, index: slice) -> list[GreyImage]: ...
    def __getitem__(self, index: int | slice) -> GreyImage | list[GreyImage]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index in self._kept:
            self._kept.move_to_end(index)
            return self._kept[index]
        image = next(self._dataset.reader.read([int(self._dataset.positions[index])]))
        self._keep(index, image)
        return image

    def _keep(self, index: int, image: GreyImage) -> None:
        if index in self._kept:
            return
        self._kept[index] = image
        self._room -= image.nbytes
        while self._room < 0:
            self._room += self._kept.popitem(last=False)[1].nbytes
