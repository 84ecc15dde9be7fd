"""What a DICOM file says of its pixels; of the rest only what is needed is read.

Read are the attributes that describe the pixels, the number of frames, the regions of the screen,
whether text is burned in, and, hashed at once, the PatientID. No other attribute is asked for.
"""

import hashlib
import hmac
import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from busi_search.data.grey import MIN_SIDE_PIXELS, GreyImage
from busi_search.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SUFFIXES = frozenset({".dcm", ".dicom", ".ima"})
MAX_DICOM_BYTES = 2_000_000_000
FRAMES_PER_FILE = 5
DEFLATED = "1.2.840.10008.1.2.1.99"
_MAX_INFLATED_BYTES = 500_000_000
# What stands for a patient in files that were made anonymous.
_NO_PATIENT = frozenset(
    {"", "0", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "n/a"}
)
HEADER_TAGS = (
    "SOPClassUID", "NumberOfFrames", "Rows", "Columns", "SamplesPerPixel", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "PhotometricInterpretation", "SequenceOfUltrasoundRegions",
    "BurnedInAnnotation",
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A rectangle of pixels, its right and lower edges left out."""

    left: int
    top: int
    right: int
    bottom: int

    def cut(self, image: GreyImage) -> GreyImage:
        """Return the part of an image (H, W) within the rectangle."""
        return np.ascontiguousarray(image[self.top : self.bottom, self.left : self.right])


@dataclass(frozen=True)
class DicomHeader:
    """What a DICOM file says of its pixels.

    Attributes:
        num_frames: at least 1.
        shape: height and width of a frame, in pixels.
        photometric: photometric interpretation, such as ``YBR_FULL_422``.
        region: the B-mode picture on the screen, the largest of several; None: the file does not
            say where it is.
        num_regions: number of B-mode regions.
        burned_in: whether text is said to be burned into the pixels; None: the file does not say.
        patient: hash of the PatientID; None where there is none, or none was asked for.
    """

    num_frames: int
    shape: tuple[int, int]
    photometric: str
    region: Box | None
    num_regions: int
    burned_in: bool | None
    patient: str | None


def is_dicom(path: Path) -> bool:
    """Return whether a file is DICOM by its suffix or its first bytes."""
    suffix = path.suffix.lower()
    # Unique identifiers, which are the names of many exported files, end in a number.
    return suffix in DICOM_SUFFIXES or (_may_lack_suffix(suffix) and begins_as_dicom(path))


def _may_lack_suffix(suffix: str) -> bool:
    return suffix == "" or suffix[1:].isdigit()


def begins_as_dicom(path: Path) -> bool:
    """Return whether a file's first bytes are those of DICOM, and it is no DICOMDIR."""
    if path.name.upper() == "DICOMDIR":
        return False
    try:
        if not path.is_file():
            return False  # a pipe would be waited for
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def even_frames(num_frames: int, limit: int) -> list[int]:
    """Return at most ``limit`` evenly spaced frames of a file, counted from 1; one: the middle."""
    count = min(num_frames, limit)
    return [(2 * k + 1) * num_frames // (2 * count) + 1 for k in range(count)]


def read_header(
    path: Path, *, shown: str | None = None, salt: bytes | None = None
) -> DicomHeader | None:
    """Read what a DICOM file says of its pixels, without them.

    Args:
        path: the file.
        shown: how error messages name it (default: the path).
        salt: key with which the PatientID is hashed; None: it is not read.

    Returns:
        None for a DICOM object that holds no image, such as a report.

    Raises:
        InputError: the file is no DICOM file, or its packages are not installed.
    """
    name = shown or str(path)
    if not path.is_file():
        raise InputError(f"{name}: not a file; name image files, or folders of them.")
    tags = [*HEADER_TAGS, *(() if salt is None else ("PatientID",))]
    with reading_dicom(name):
        found = read_tags(path, tags, pixels=False)
        if "SOPClassUID" not in found:
            raise InputError(f"{name}: not a readable DICOM file; restore or remove it.")
        if "Rows" not in found or "PhotometricInterpretation" not in found:
            return None
        return _header(found, salt)


def _header(found: "Dataset", salt: bytes | None) -> DicomHeader:
    rows, columns = int(found.Rows), int(found.Columns)
    regions = _b_mode_regions(found, rows, columns)
    burned_in = str(found.get("BurnedInAnnotation") or "").upper()
    patient = str(found.get("PatientID") or "").strip("\0 ")
    known = salt is not None and patient.lower() not in _NO_PATIENT
    return DicomHeader(
        num_frames=max(1, int(found.get("NumberOfFrames") or 1)),
        shape=(rows, columns),
        photometric=str(found.PhotometricInterpretation),
        region=max(regions, key=lambda box: (box.right - box.left) * (box.bottom - box.top))
        if regions
        else None,
        num_regions=len(regions),
        burned_in={"YES": True, "NO": False}.get(burned_in),
        patient=hash_patient(patient, salt) if known and salt is not None else None,
    )


def cut_like_image(mask: GreyImage, path: Path) -> GreyImage:
    """Cut a mask (H, W) to the region that its DICOM image is cut to, if it shows the whole screen.

    Raises:
        InputError: the image is DICOM and cannot be read.
    """
    header = read_header(path) if is_dicom(path) else None
    if header is None or header.region is None or mask.shape != header.shape:
        return mask
    return header.region.cut(mask)


def hash_patient(patient: str, salt: bytes) -> str:
    """Return 16 hexadecimal digits for a PatientID, which cannot be guessed without the salt."""
    return hmac.new(salt, patient.encode(), hashlib.sha256).hexdigest()[:16]


def _b_mode_regions(found: "Dataset", rows: int, columns: int) -> list[Box]:
    """The regions of tissue in two dimensions; without any, all two-dimensional ones.

    A region that reaches over the edge was measured on the picture before it was made smaller; it
    is left out, as are those that are too small for an image.
    """
    boxes: list[tuple[bool, Box]] = []
    for item in found.get("SequenceOfUltrasoundRegions") or ():
        if int(item.get("RegionSpatialFormat") or 0) != 1:
            continue
        edges = ("MinX0", "MinY0", "MaxX1", "MaxY1")
        values = [item.get(f"RegionLocation{edge}") for edge in edges]
        if any(value is None for value in values):
            continue
        left, top, right, bottom = (int(value) for value in values)
        # Some machines count the right and lower edges as one further than the standard does.
        inside = left >= 0 and top >= 0 and right <= columns and bottom <= rows
        box = Box(left, top, min(columns, right + 1), min(rows, bottom + 1))
        if inside and min(box.right - box.left, box.bottom - box.top) >= MIN_SIDE_PIXELS:
            boxes.append((int(item.get("RegionDataType") or 0) == 1, box))
    tissue = [box for is_tissue, box in boxes if is_tissue]
    return tissue or [box for _, box in boxes]


def read_tags(path: Path, tags: list[str], *, pixels: bool) -> "Dataset":
    """Read attributes of a file, and no others; its pixels only if they are asked for."""
    from pydicom import dcmread

    _refuse_swollen(path)
    known: list[Any] = list(tags)
    force = path.suffix.lower() in DICOM_SUFFIXES
    return dcmread(path, specific_tags=known, stop_before_pixels=not pixels, force=force)


def transfer_syntax(path: Path) -> str | None:
    """Return the transfer syntax; None where the file has no part that tells it."""
    from pydicom.filereader import read_file_meta_info

    try:
        return str(read_file_meta_info(path).get("TransferSyntaxUID") or "") or None
    except Exception:
        return None


def _refuse_swollen(path: Path) -> None:
    """Refuse a deflated file that would fill the memory when it is read."""
    from pydicom.filereader import read_file_meta_info

    if transfer_syntax(path) != DEFLATED:
        return
    inflate, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    with path.open("rb") as stream:
        length = read_file_meta_info(path).get("FileMetaInformationGroupLength") or 0
        stream.seek(132 + 12 + int(length))
        rest = stream.read(MAX_DICOM_BYTES)
    while rest and not inflate.eof:
        size += len(inflate.decompress(rest, 2**24))
        rest = inflate.unconsumed_tail
        if size > _MAX_INFLATED_BYTES:
            limit = _MAX_INFLATED_BYTES / 1e6
            raise InputError(f"{path}: inflated it is larger than {limit:g} MB; save it as it is.")


@contextmanager
def reading_dicom(name: str) -> Iterator[None]:
    """Turn what pydicom and the decoders fail with into one sentence; warnings may quote values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import pydicom

            with _silent(pydicom.config.logger):
                yield
    except InputError:
        raise
    except ImportError:
        raise InputError(
            f"{name}: DICOM files need more packages: pip install 'busi-search[dicom]'."
        ) from None
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}).") from None
    except Exception as error:
        # Readers raise whatever they like on damaged input, sometimes with values of attributes.
        kind = type(error).__name__
        raise InputError(
            f"{name}: not a readable DICOM file ({kind}); restore or remove it."
        ) from None


@contextmanager
def _silent(logger: logging.Logger) -> Iterator[None]:
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before
