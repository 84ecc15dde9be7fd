"""Which images the studies of a home developed on or sealed, known again by their content.

Names, seeds, sizes and file formats change; the scan does not. So a home keeps a small copy of
every image that a study of it divided, and for every study who was developed on and who was sealed.
Two images are one scan if their content is equal or the twin finder says so.
"""

import hashlib
import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.file_cache import build_once
from busi_search.data.images import GreyImage
from busi_search.files import check_free_space, disk_errors, write_atomically
from busi_search.home import Home

# Sharp enough for the finest level at which the twin finder compares.
KEPT_PIXELS = 128
# Equal to groups.DETECTOR_VERSION, which cannot be asked without the seconds of torch.
FINDER_VERSION = 2


@dataclass(frozen=True)
class Membership:
    """Who belongs where in one study; kept for good, also if the study is deleted.

    Attributes:
        study: its name.
        partition: digest of its division.
        fingerprint: of its images.
        development: indices of the images it developed on.
        sealed: indices of its sealed test.
    """

    study: str
    partition: str
    fingerprint: str
    development: tuple[int, ...]
    sealed: tuple[int, ...]

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.partition}-{hashlib.sha256(self.study.encode()).hexdigest()[:8]}.json"


@dataclass(frozen=True)
class KnownSet:
    """The images of one dataset, as the register keeps them.

    Attributes:
        path: the file.
        digests: N digests of their content.
        groups: (N,) group of each among near-duplicates: the smallest index of the group.
        simulated: whether they are phantoms, which resemble nothing but themselves.
    """

    path: Path
    digests: tuple[str, ...]
    groups: tuple[int, ...]
    simulated: bool

    @cached_property
    def images(self) -> list[GreyImage]:
        """N grey images (H, W) uint8, no side longer than ``KEPT_PIXELS``; read when needed."""
        with np.load(self.path, allow_pickle=False) as arrays:
            shapes: npt.NDArray[np.int64] = arrays["shapes"]
            parts = np.split(arrays["pixels"], np.cumsum(shapes.prod(axis=1))[:-1])
        return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


class KnownImages:
    """The register of one home; what it has read once it does not read again."""

    def __init__(self, home: Home) -> None:
        """Look at the register of ``home``, which need not be there yet."""
        self._folder = home.root / "known_images"
        self._cache = home.cache
        self._added: set[str] = set()

    @property
    def exists(self) -> bool:
        """Whether anything was ever kept here."""
        return self._folder.is_dir()

    @property
    def state(self) -> tuple[str, ...]:
        """Which studies are kept; cheap, and another when a study was added."""
        return tuple(sorted(path.name for path in self._folder.glob("studies/*.json")))

    def add_images(self, dataset: ImageDataset) -> None:
        """Keep a small copy of every image of a dataset, if they are not kept yet.

        Raises:
            InputError: an image cannot be read.
            BusiSearchError: the disk has no room for them.
        """
        self._added.add(dataset.fingerprint)
        target = self._images_file(dataset.fingerprint)
        build_once(
            target,
            lambda: _read_set(target),
            lambda path: _write_set(path, dataset, self._cache),
            make_room=lambda folder: check_free_space(folder, len(dataset) * KEPT_PIXELS**2),
        )

    def add(self, member: Membership) -> None:
        """Keep who belongs where in a study.

        Raises:
            BusiSearchError: the disk has no room for it.
        """
        target = self._folder / "studies" / member.file_name
        if not target.exists():
            with disk_errors(target.parent):
                write_atomically(target, json.dumps(asdict(member)).encode())

    @cached_property
    def memberships(self) -> tuple[Membership, ...]:
        """Those of all studies, also of deleted ones; files that cannot be read are left out."""
        found = []
        for path in sorted(self._folder.glob("studies/*.json")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                content["development"] = tuple(content["development"])
                content["sealed"] = tuple(content["sealed"])
                found.append(Membership(**content))
            except (OSError, ValueError, KeyError, TypeError):
                continue
        return tuple(found)

    @cached_property
    def sets(self) -> Mapping[str, KnownSet]:
        """The images of every dataset that a study divided, or was added here, by fingerprint."""
        names = sorted({member.fingerprint for member in self.memberships} | self._added)
        read = {name: _read_set(self._images_file(name)) for name in names}
        return {name: found for name, found in read.items() if found is not None}

    @cached_property
    def scans(self) -> Mapping[tuple[str, int], int]:
        """Number of the scan that each image shows, by fingerprint and index.

        Images of one scan are those of equal content, near-duplicates within a dataset, and twins
        between two of them.
        """
        places = [(name, i) for name, known in self.sets.items() for i in range(len(known.digests))]
        joined = {place: number for number, place in enumerate(places)}
        root = list(range(len(places)))

        def find(number: int) -> int:
            while root[number] != number:
                root[number] = number = root[root[number]]
            return number

        for one, other in self._same_scans():
            first, second = find(joined[one]), find(joined[other])
            root[max(first, second)] = min(first, second)
        return {place: find(number) for place, number in joined.items()}

    def _same_scans(self) -> Iterator[tuple[tuple[str, int], tuple[str, int]]]:
        seen: dict[str, tuple[str, int]] = {}
        for name, known in self.sets.items():
            for index, (digest, group) in enumerate(zip(known.digests, known.groups, strict=True)):
                yield (name, index), (name, group)
                yield (name, index), seen.setdefault(digest, (name, index))
        names = list(self.sets)
        for position, one in enumerate(names):
            for other in names[position + 1 :]:
                if not (self.sets[one].simulated or self.sets[other].simulated):
                    for first, second in self._twins(one, other):
                        yield (one, first), (other, second)

    def _twins(self, one: str, other: str) -> list[tuple[int, int]]:
        """Pairs of twins between two datasets, found once and then read."""
        target = self._cache / "known_images" / f"{one}-{other}-v{FINDER_VERSION}.json"

        def read() -> list[tuple[int, int]] | None:
            try:
                return [(int(i), int(j)) for i, j in json.loads(target.read_text())]
            except (OSError, ValueError, TypeError):
                return None

        def write(path: Path) -> None:
            path.write_text(json.dumps(_find_twins(self.sets[one], self.sets[other])))

        return build_once(target, read, write, make_room=lambda folder: check_free_space(folder, 0))

    def scans_of(self, fingerprint: str, indices: Iterable[int]) -> frozenset[int]:
        """Return the scans that these images of a dataset show; unknown images are left out."""
        found = (self.scans.get((fingerprint, index)) for index in indices)
        return frozenset(scan for scan in found if scan is not None)

    def developed_elsewhere(self, mine: Membership) -> dict[int, tuple[str, ...]]:
        """Return who else developed on the sealed images of a study.

        Args:
            mine: the study, whether it is kept or not.

        Returns:
            Names of the other studies, sorted, by index of the sealed image; others are left out.
        """
        others: dict[int, set[str]] = {}
        for member in self.memberships:
            if (member.study, member.partition) != (mine.study, mine.partition):
                for scan in self.scans_of(member.fingerprint, member.development):
                    others.setdefault(scan, set()).add(member.study)
        found = {i: others.get(self.scans.get((mine.fingerprint, i), -1)) for i in mine.sealed}
        return {index: tuple(sorted(names)) for index, names in found.items() if names}

    def _images_file(self, fingerprint: str) -> Path:
        return self._folder / f"{fingerprint}.npz"


def _find_twins(one: KnownSet, other: KnownSet) -> list[tuple[int, int]]:
    """Pairs of indices; images that both sets hold are not compared with one another."""
    from busi_search.data.duplicates import find_twins

    shared = set(one.digests) & set(other.digests)
    mine = [i for i, digest in enumerate(one.digests) if digest not in shared]
    common = [i for i, digest in enumerate(one.digests) if digest in shared]
    theirs = list(range(len(other.digests)))
    new = [j for j in theirs if other.digests[j] not in shared]
    return [
        (queries[pair.first], known[pair.second])
        for queries, known in ((mine, theirs), (common, new))
        if queries and known
        for pair in find_twins([one.images[i] for i in queries], [other.images[j] for j in known])
    ]


def small_copy(image: GreyImage) -> GreyImage:
    """Return an image (H, W) uint8 with no side longer than ``KEPT_PIXELS``."""
    height, width = (min(side, KEPT_PIXELS) for side in image.shape)
    if (height, width) == image.shape:
        return image
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)


def _write_set(path: Path, dataset: ImageDataset, cache: Path) -> None:
    from busi_search.data.groups import find_groups

    groups = find_groups(dataset, "auto", cache)
    shapes = np.zeros((len(dataset), 2), dtype=np.int64)
    # The pixels go through a file: those of 100,000 images are more than should be in memory.
    with tempfile.TemporaryFile(dir=path.parent) as pixels:
        for index, image in enumerate(dataset.images()):
            small = small_copy(image)
            shapes[index] = small.shape
            pixels.write(small.tobytes())
        rows = {
            "shapes": shapes,
            "digests": np.array(dataset.digests),
            "groups": groups.twins,
            "simulated": np.array(dataset.simulated),
        }
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in rows.items():
                with archive.open(f"{name}.npy", "w") as stream:
                    np.lib.format.write_array(stream, np.asanyarray(array), allow_pickle=False)
            header = {"descr": "|u1", "fortran_order": False, "shape": (pixels.tell(),)}
            pixels.seek(0)
            with archive.open("pixels.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                shutil.copyfileobj(pixels, stream, 1 << 20)


def _read_set(path: Path) -> KnownSet | None:
    """Read what is kept of a dataset; None where the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return KnownSet(
                path=path,
                digests=tuple(map(str, arrays["digests"])),
                groups=tuple(map(int, arrays["groups"])),
                simulated=bool(arrays["simulated"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
