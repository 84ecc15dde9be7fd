"""Opens any source of images."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from busi_search.data.classes import positive_class
from busi_search.data.containers import Container
from busi_search.data.dataset import ImageDataset
from busi_search.data.dicom_listing import with_frames
from busi_search.data.images import GreyImage
from busi_search.data.layouts.class_folders import is_busi_folder, list_class_folders
from busi_search.data.layouts.published import PUBLISHED
from busi_search.data.layouts.sheets import SHEET_SUFFIXES
from busi_search.data.layouts.table import list_table
from busi_search.data.layouts.unlisted import left_out_notes
from busi_search.data.listing import Listing, dataset_of_listing
from busi_search.data.medmnist import load_medmnist
from busi_search.data.patient_salt import SALT_FILE
from busi_search.data.phantom import Phantom, simulate_phantom
from busi_search.data.several import load_several
from busi_search.errors import InputError
from busi_search.files import user_path
from busi_search.spec import DatasetSection

# A set that takes less is kept: reading an image here and there would simulate all of them anew.
_KEPT_PIXELS = 50_000_000


def _simulate(num_images: int, size_pixels: int, seed: int) -> Phantom:
    if num_images * size_pixels**2 > _KEPT_PIXELS:
        return simulate_phantom(num_images, size_pixels=size_pixels, seed=seed)
    return _last_simulated(num_images, size_pixels, seed)


@lru_cache(maxsize=1)
def _last_simulated(num_images: int, size_pixels: int, seed: int) -> Phantom:
    phantom = simulate_phantom(num_images, size_pixels=size_pixels, seed=seed)
    for array in (phantom.images, phantom.masks, phantom.labels):
        array.setflags(write=False)
    return phantom


@dataclass(frozen=True)
class PhantomReader:
    """Simulates the images: they are a function of three numbers."""

    num_images: int
    size_pixels: int
    seed: int

    def read(self, indices: Sequence[int]) -> Iterator[GreyImage]:
        """Yield the (H, W) uint8 image of each index."""
        phantom = _simulate(self.num_images, self.size_pixels, self.seed)
        for index in indices:
            yield phantom.images[index]

    def read_masks(self, indices: Sequence[int]) -> Iterator[GreyImage | None]:
        """Yield the (H, W) uint8 lesion mask of each index."""
        phantom = _simulate(self.num_images, self.size_pixels, self.seed)
        for index in indices:
            yield phantom.masks[index].astype(np.uint8) * 255

    def masks_digest(self, indices: Sequence[int]) -> str | None:
        """Return a constant: the masks follow from the three numbers, as the images do."""
        return "simulated"

    def containers(self, indices: Sequence[int]) -> list[Container]:
        """Return nothing: there are no image files."""
        return []

    @property
    def white_level(self) -> None:
        """None: all pixels have 8 bits."""
        return None


def guess_study(data: str | None, *, default_folder: Path = Path("data")) -> tuple[str, str | None]:
    """Return the bundled study and the data path that fit what the user named.

    Args:
        data: a path given by the user, or None.
        default_folder: where a BUSI folder is looked for when nothing was named.

    Returns:
        The study's name and the path (None: embedded phantoms).

    Raises:
        InputError: a path was named that is neither a class folder nor an .npz file.
    """
    if data is None:
        return (
            ("busi", str(default_folder))
            if is_busi_folder(default_folder)
            else ("quickstart", None)
        )
    studies = {"medmnist": "breastmnist", "busbra": "busbra"}
    return studies.get(guess_source(data), "busi"), data


def guess_source(data: str) -> str:
    """Return what kind of dataset lies at a path, as ``[dataset] source`` names it.

    Raises:
        InputError: it is no folder, table or .npz file.
    """
    path = user_path(data)
    if path.suffix.lower() == ".npz":
        return "medmnist"
    if path.suffix.lower() in SHEET_SUFFIXES:
        return "table"
    if not path.is_dir():
        problem = "no such file or folder" if not path.exists() else "not a set of images"
        raise InputError(
            f"{data}: {problem}; name a folder of class folders, a published set's folder, a table "
            "(.csv, .xlsx) or a MedMNIST .npz file."
        )
    return next((layout.source for layout in PUBLISHED if layout.find(path) is not None), "busi")


def title_of(source: str) -> str:
    """Return what people call a kind of dataset that ``[dataset] source`` names."""
    own = {
        "busi": "a folder of class folders",
        "medmnist": "a MedMNIST archive",
        "table": "a table",
    }
    return own.get(source) or next(
        (layout.title for layout in PUBLISHED if layout.source == source), source
    )


def load_dataset(
    section: DatasetSection, *, cache: Path | None = None, positive_needed: bool = True
) -> ImageDataset:
    """Load what the ``[dataset]`` section of a study names.

    Args:
        section: the section.
        cache: folder of the home's cache, where the digests of files are kept, so that only files
            that changed are read again; beside it lies the salt with which PatientIDs are hashed.
            None: all are read.
        positive_needed: refuse class names that do not tell the disease; who only looks at images
            needs no such class.

    Raises:
        InputError: the data is missing or not usable; the sentence names the file.
    """
    if section.source == "phantom":
        return _load_phantom(section)
    if section.source == "several":
        load = partial(load_dataset, cache=cache, positive_needed=False)
        return load_several(section, load, positive_needed=positive_needed)
    if section.path is None:
        raise InputError(
            f'This study needs images (source = "{section.source}"): name them with --data PATH.'
        )
    path = user_path(section.path)
    source = guess_source(section.path) if section.source == "auto" else section.source
    if source == "medmnist":
        found = load_medmnist(
            path, section.class_names, positive=section.positive, positive_needed=positive_needed
        )
    else:
        salt_file = None if cache is None else cache.parent / SALT_FILE
        listing = _list(source, section, path)
        found = dataset_of_listing(
            with_frames(listing, limit=section.frames_per_file, salt_file=salt_file),
            positive=section.positive,
            positive_needed=positive_needed,
            cache=cache,
        )
    if section.source == "auto":
        note = f'{section.path}: recognised as {title_of(source)} (source = "{source}").'
        found = replace(found, notes=(note, *found.notes))
    return found


def _list(source: str, section: DatasetSection, path: Path) -> Listing:
    """The images of a folder or table."""
    if source == "table":
        return list_table(path, section.columns)
    if source == "busi":
        return list_class_folders(path)
    layout = next(layout for layout in PUBLISHED if layout.source == source)
    root = layout.find(path)
    if root is None:
        raise InputError(
            f"{path}: not {layout.title} as its authors laid it out (source = "
            f'"{layout.source}"); check the folder, or leave out the source.'
        )
    listing = layout.read(root)
    return replace(listing, notes=(*listing.notes, *left_out_notes(layout.title, listing)))


def _load_phantom(section: DatasetSection) -> ImageDataset:
    num_images, seed = section.phantom_num_images, section.phantom_seed
    size = max(64, section.image_size_pixels)
    phantom = _simulate(num_images, size, seed)
    return ImageDataset(
        name="phantom",
        class_names=phantom.class_names,
        positive=positive_class(phantom.class_names, None, where="phantom"),
        labels=phantom.labels,
        paths=tuple(f"phantom/{index}" for index in range(num_images)),
        digests=tuple(hashlib.sha256(image.tobytes()).hexdigest() for image in phantom.images),
        official=None,
        reader=PhantomReader(num_images=num_images, size_pixels=size, seed=seed),
        positions=np.arange(num_images, dtype=np.int64),
        simulated=True,
    )
