"""Several sources as one dataset: every image knows its site, and classes have one name."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from busi_search.data.class_mapping import LEAVE_OUT, map_classes
from busi_search.data.classes import positive_class
from busi_search.data.containers import Container
from busi_search.data.dataset import ImageDataset, ImageReader
from busi_search.data.geometry import Box
from busi_search.data.images import GreyImage
from busi_search.errors import InputError
from busi_search.spec import DatasetSection
from busi_search.spec.several_sources import SourceEntry

T = TypeVar("T")
Load = Callable[[DatasetSection], ImageDataset]
_LONGEST_NAME = 40


@dataclass(frozen=True)
class SeveralReader:
    """Reads each image with the reader of its source.

    Attributes:
        readers: of the sources.
        owner: (N,) which of them an image is read with.
        place: (N,) its index there.
    """

    readers: tuple[ImageReader, ...]
    owner: npt.NDArray[np.int64]
    place: npt.NDArray[np.int64]

    def _runs(self, indices: Sequence[int]) -> Iterator[tuple[ImageReader, list[int]]]:
        """Each reader with as many images in a row as are its own."""
        for owner, run in groupby(indices, key=lambda index: int(self.owner[index])):
            yield self.readers[owner], [int(self.place[index]) for index in run]

    def read(self, indices: Sequence[int]) -> Iterator[GreyImage]:
        """Yield the (H, W) uint8 image of each index."""
        for reader, places in self._runs(indices):
            yield from reader.read(places)

    def read_masks(self, indices: Sequence[int]) -> Iterator[GreyImage | None]:
        """Yield the (H, W) uint8 mask of each index; None: not known."""
        for reader, places in self._runs(indices):
            yield from reader.read_masks(places)

    def masks_digest(self, indices: Sequence[int]) -> str | None:
        """Return what changes with any mask; None if no source has one."""
        found = [reader.masks_digest(places) for reader, places in self._runs(indices)]
        if all(digest is None for digest in found):
            return None
        return hashlib.sha256("|".join(map(str, found)).encode()).hexdigest()[:16]

    def containers(self, indices: Sequence[int]) -> list[Container]:
        """Return what each image's file holds; empty where images of a source have no files."""
        parts = [reader.containers(places) for reader, places in self._runs(indices)]
        return [] if any(not part for part in parts) else list(chain.from_iterable(parts))

    @property
    def white_level(self) -> float | None:
        """The highest of the sources; each is read by its own."""
        levels = [reader.white_level for reader in self.readers]
        return max((level for level in levels if level is not None), default=None)


def load_several(
    section: DatasetSection, load: Load, *, positive_needed: bool = True
) -> ImageDataset:
    """Load the sources of a study and put them together.

    Args:
        section: the study's ``[dataset]``.
        load: reads one source.
        positive_needed: refuse class names that do not tell the disease.

    Returns:
        All images, source after source. Names and patients begin with the site, and the property
        ``site`` names it; a source that has sites of its own adds them to it.

    Raises:
        InputError: a source cannot be read, a class is mapped to none of the study's, or a table
            has test images of its own.
    """
    parts = [(entry, _read(entry, section, load)) for entry in section.sources]
    class_names = _class_names(*parts[0])
    where = " and ".join(f"'{entry.site}'" for entry in section.sources)
    positive = positive_class(class_names, section.positive, where=where, needed=positive_needed)
    named = [_with_classes(*part, class_names) for part in parts]
    name = _name([entry.site for entry in section.sources])
    return _joined(named, class_names, positive, name)


def _read(entry: SourceEntry, section: DatasetSection, load: Load) -> ImageDataset:
    own = section.model_copy(
        update={
            "source": entry.source,
            "path": entry.path,
            "columns": entry.columns,
            "sources": (),
            "positive": None,
            "class_names": None,
        }
    )
    found = load(own)
    if entry.source in ("table", "auto") and "test" in (found.official or ()):
        if entry.path.lower().endswith(".npz"):
            return found
        raise InputError(
            f"{entry.path}: its column split names test images, but a study of several sources "
            "seals images of every site itself; take the column out, or name another of that "
            'meaning: columns = { split = "OTHER" }.'
        )
    return found


def _key(name: str) -> str:
    return " ".join(name.lower().split())


def _class_names(entry: SourceEntry, first: ImageDataset) -> tuple[str, ...]:
    """The study's classes: those of the first source, after its own map."""
    stated = {_key(theirs): ours for theirs, ours in entry.map.items()}
    names = [stated.get(_key(name), name) for name in first.class_names]
    kept = {_key(name): name for name in names if _key(name) != LEAVE_OUT}
    if len(kept) < 2:
        raise InputError(
            f"{entry.path}: its map leaves fewer than two classes; keep at least two, such as "
            "benign and malignant."
        )
    return tuple(sorted(kept.values()))


def _with_classes(
    entry: SourceEntry, dataset: ImageDataset, class_names: tuple[str, ...]
) -> ImageDataset:
    """One source with the study's classes, and with its site before all its names."""
    targets = map_classes(
        dataset.class_names, class_names, entry.map, where=entry.path, in_study_file=True
    )
    label_of = np.array([-1 if target is None else target for target in targets])
    labels = label_of[dataset.labels]
    kept = np.flatnonzero(labels >= 0).astype(np.int64)
    notes = [f"{entry.site}: {note}" for note in dataset.notes]
    if (num_left_out := len(dataset) - len(kept)) > 0:
        notes.append(f"{entry.site}: {num_left_out} images are left out by its map of classes.")
    if dataset.official is not None:
        notes.append(f"{entry.site}: the parts of its authors' split count as one set of images.")
    for label in np.setdiff1d(np.arange(len(class_names)), labels[kept]):
        notes.append(f"{entry.site}: it has no image of class '{class_names[label]}'.")
    found = replace(dataset, labels=labels.astype(np.int64)).subset(kept)
    own_sites = found.properties.get("site", ("",) * len(found))
    sites = tuple(f"{entry.site} {own}".strip() for own in own_sites)
    return replace(
        found,
        paths=tuple(f"{entry.site}/{path}" for path in found.paths),
        patients=found.patients
        and tuple(name and f"{entry.site}/{name}" for name in found.patients),
        files=found.files and tuple(f"{entry.site}/{name}" for name in found.files),
        properties={**found.properties, "site": sites},
        notes=tuple(notes),
    )


def _joined(
    parts: Sequence[ImageDataset], class_names: tuple[str, ...], positive: int, name: str
) -> ImageDataset:
    sizes = [len(part) for part in parts]
    keys = sorted({key for part in parts for key in part.properties})
    boxes: list[Box | None] = [box for part in parts for box in (part.boxes or (None,) * len(part))]
    with_boxes = any(part.boxes is not None for part in parts)
    with_files = any(part.files is not None for part in parts)
    with_patients = any(part.patients is not None for part in parts)
    return ImageDataset(
        name=name,
        class_names=class_names,
        positive=positive,
        labels=np.concatenate([part.labels for part in parts]),
        paths=tuple(chain.from_iterable(part.paths for part in parts)),
        digests=tuple(chain.from_iterable(part.digests for part in parts)),
        official=None,
        reader=SeveralReader(
            readers=tuple(part.reader for part in parts),
            owner=np.repeat(np.arange(len(parts)), sizes).astype(np.int64),
            place=np.concatenate([part.positions for part in parts]),
        ),
        positions=np.arange(sum(sizes), dtype=np.int64),
        patients=_all(part.patients or (None,) * len(part) for part in parts)
        if with_patients
        else None,
        folds=None,
        boxes=tuple(boxes) if with_boxes else None,
        properties={
            key: _all(part.properties.get(key, ("",) * len(part)) for part in parts) for key in keys
        },
        notes=_all(part.notes for part in parts),
        files=_all(part.files or part.paths for part in parts) if with_files else None,
    )


def _all(parts: Iterable[Iterable[T]]) -> tuple[T, ...]:
    return tuple(chain.from_iterable(parts))


def _name(sites: Sequence[str]) -> str:
    """The sites' names in small letters, joined; of many how many there are."""
    words = [re.sub(r"[^a-z0-9]+", "", site.lower()) or "site" for site in sites]
    joined = "-".join(words)
    return joined if len(joined) <= _LONGEST_NAME else f"{len(words)}-sites"
