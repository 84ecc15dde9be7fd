"""One frame of a DICOM file as grey 8-bit pixels."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from busi_search.data.dicom import (
    DEFLATED,
    HEADER_TAGS,
    DicomHeader,
    begins_as_dicom,
    even_frames,
    read_header,
    read_tags,
    reading_dicom,
    transfer_syntax,
)
from busi_search.data.grey import (
    MAX_IMAGE_PIXELS,
    MIN_SIDE_PIXELS,
    GreyImage,
    Values,
    luminance,
    scale_to_grey,
    white_level,
)
from busi_search.errors import InputError

if TYPE_CHECKING:
    from pydicom import Dataset

# Decoders in the order in which they are asked: GDCM is large, and only it knows lossless JPEG.
_DECODERS = ("pylibjpeg", "pillow", "pydicom", "gdcm")
_SHADES = (
    "WindowCenter", "WindowWidth", "VOILUTFunction", "VOILUTSequence", "ModalityLUTSequence",
    "RescaleSlope", "RescaleIntercept",
    *(f"{colour}PaletteColorLookupTable{kind}" for colour in ("Red", "Green", "Blue", "Alpha")
      for kind in ("Descriptor", "Data")),
    *(f"Segmented{colour}PaletteColorLookupTableData" for colour in ("Red", "Green", "Blue")),
)  # fmt: skip
_PIXELS = (
    *HEADER_TAGS, *_SHADES, "PlanarConfiguration", "PixelData", "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths", "HighBit",
)  # fmt: skip


def decode_dicom(
    path: Path, *, shown: str | None = None, frame: int | None = None, white: float | None = None
) -> GreyImage:
    """Read a frame of a DICOM file as grey 8-bit pixels, cut to its B-mode region if it tells one.

    A window or look-up table of the file is applied; other values of more than 8 bits are scaled
    by ``white``. MONOCHROME1 is inverted, and colour becomes luminance (ITU-R BT.601).

    Args:
        path: the file.
        shown: how error messages name it (default: the path).
        frame: counted from 1; None: the middle one.
        white: value of white; None: as :func:`.white_level` finds it in this frame.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: it is damaged, holds no image or is compressed in a way that is not known here.
    """
    name = shown or str(path)
    header = read_header(path, shown=name)
    if header is None:
        raise InputError(f"{name}: this DICOM file holds no image; leave it out.")
    if header.shape[0] * header.shape[1] > MAX_IMAGE_PIXELS:
        height, width = header.shape
        raise InputError(f"{name}: {width}×{height} pixels are more than the 64 million allowed.")
    with reading_dicom(name):
        grey = _grey(*_decoded(path, header, frame, name), white)
    image = grey if header.region is None else header.region.cut(grey)
    if min(image.shape) < MIN_SIDE_PIXELS:
        height, width = image.shape
        raise InputError(f"{name}: {width}×{height} pixels are too few for an image.")
    return image


def dicom_white_level(path: Path, frame: int | None) -> float | None:
    """Return the white level of a frame; None where it is not scaled by one.

    Raises:
        InputError: as :func:`decode_dicom`.
    """
    name = str(path)
    header = read_header(path, shown=name)
    if header is None:
        return None
    with reading_dicom(name):
        if int(read_tags(path, ["BitsAllocated"], pixels=False).get("BitsAllocated") or 8) <= 8:
            return None
        found, values = _decoded(path, header, frame, name)
        if values.ndim == 3:
            return white_level(luminance(values))
        return None if _has_shades(found) else white_level(_unsigned(found, values))


def _decoded(
    path: Path, header: DicomHeader, frame: int | None, name: str
) -> tuple["Dataset", Values]:
    """What describes a frame's shades, and its values (H, W) or, as RGB, (H, W, 3)."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.pixels.processing import apply_color_lut
    from pydicom.pixels.utils import pixel_array

    number = even_frames(header.num_frames, 1)[0] if frame is None else frame
    if not 1 <= number <= header.num_frames:
        raise InputError(f"{name}: there is no frame {number}, only {header.num_frames}.")
    # Of a file as it should be, only the frame is read, and not a whole clip into memory.
    whole = not begins_as_dicom(path) or transfer_syntax(path) == DEFLATED
    found = read_tags(path, list(_PIXELS), pixels=whole)
    source = found if whole else path
    syntax = found.file_meta.TransferSyntaxUID
    available = get_decoder(syntax).available_plugins if syntax.is_encapsulated else ("",)
    order = [plugin for plugin in _DECODERS if plugin in available] or list(available)
    problem: Exception | None = None
    for plugin in order:
        try:
            values = np.asarray(pixel_array(source, index=number - 1, decoding_plugin=plugin))
            break
        except Exception as error:
            problem = error
    else:
        bits = found.get("BitsStored")
        raise InputError(
            f"{name}: its pixels ({syntax.name}, {bits} bits) are damaged, or compressed in a way "
            "that cannot be decoded here; save the file uncompressed to use it."
        ) from problem
    if header.photometric == "PALETTE COLOR":
        values = apply_color_lut(values, found)
    if values.ndim == 3 and values.shape[2] != 3:
        raise InputError(f"{name}: {header.photometric} pixels are not read; save it as RGB.")
    return found, values


def _grey(found: "Dataset", values: Values, white: float | None) -> GreyImage:
    if values.ndim == 3:
        if values.dtype != np.uint8:
            shades = luminance(values)
            return scale_to_grey(shades, white or white_level(shades))
        return np.asarray(Image.fromarray(values).convert("L"), dtype=np.uint8)
    if _has_shades(found):
        grey = _windowed(found, values)
    elif int(found.BitsAllocated) <= 8:
        grey = scale_to_grey(_unsigned(found, values), 2.0 ** int(found.BitsStored) - 1)
    else:
        values = _unsigned(found, values)
        grey = scale_to_grey(values, white or white_level(values))
    return 255 - grey if found.PhotometricInterpretation == "MONOCHROME1" else grey


def _unsigned(found: "Dataset", values: Values) -> Values:
    """Signed integers of 8 bits counted from the least; of more bits, negative ones stay black."""
    if int(found.get("PixelRepresentation") or 0) == 1 and int(found.BitsAllocated) <= 8:
        shifted: Values = values.astype(np.int64) + 2 ** (int(found.BitsStored) - 1)
        return shifted
    return values


def _window(found: "Dataset") -> tuple[float, float] | None:
    center, width = found.get("WindowCenter"), found.get("WindowWidth")
    if isinstance(center, Sequence) and not isinstance(center, str):
        center = center[0] if len(center) else None
    if isinstance(width, Sequence) and not isinstance(width, str):
        width = width[0] if len(width) else None
    if center is None or width is None or float(width) < 1:
        return None
    return float(center), float(width)


def _has_shades(found: "Dataset") -> bool:
    """Whether the file says which values are black and white."""
    return bool(found.get("VOILUTSequence")) or _window(found) is not None


def _windowed(found: "Dataset", values: Values) -> GreyImage:
    """Apply the first window or look-up table, by DICOM PS3.3 C.11.2."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    shades: Values = apply_modality_lut(values, found)
    window = _window(found)
    if window is None:
        white = 2.0 ** int(found.VOILUTSequence[0].LUTDescriptor[2]) - 1
        return scale_to_grey(np.asarray(apply_voi(shades, found)), white)
    center, width = window
    function = str(found.get("VOILUTFunction") or "LINEAR").upper()
    shades = shades.astype(np.float64)
    if function == "SIGMOID":
        return scale_to_grey(1 / (1 + np.exp(np.clip(-4 * (shades - center) / width, -60, 60))), 1)
    if function == "LINEAR":
        center, width = center - 0.5, max(width - 1, 1e-6)
    return scale_to_grey((shades - center) / width + 0.5, 1)
