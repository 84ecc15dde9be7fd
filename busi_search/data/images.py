"""Reading one image file, whatever its mode, as grey 8-bit pixels."""

import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from busi_search.data import grey
from busi_search.data.dicom import (
    MAX_DICOM_BYTES,
    is_dicom,
)
from busi_search.data.dicom_pixels import decode_dicom, dicom_white_level
from busi_search.data.grey import (
    MAX_IMAGE_PIXELS,
    MIN_SIDE_PIXELS,
    Values,
    is_nearly_black,
    luminance,
    scale_to_grey,
    white_level,
)
from busi_search.errors import InputError, reason_of

GreyImage = grey.GreyImage

MAX_FILE_BYTES = 256_000_000
# Pillow knows formats that start other programs (EPS) or are containers; images need none of them.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")
ORIENTATION_TAG = 0x0112
_ASIDE = (5, 6, 7, 8)
_PNG_TAGS = (b"eXIf", b"Raw profile type", b"XML:com.adobe.xmp")
_WHITE_IS_ZERO = 262
_GREY_16 = ("I;16", "I;16L", "I;16B", "I;16N")


def decode_image(
    path: Path, *, shown: str | None = None, frame: int | None = None, white: float | None = None
) -> GreyImage:
    """Read an image file as grey 8-bit pixels, upright as its orientation tag says.

    Colour becomes luminance (ITU-R BT.601) and transparent pixels are laid over black. Values of
    more than 8 bits are scaled so that ``white`` becomes 255. Of several pages the first is read.
    DICOM is read as :func:`.decode_dicom` says.

    Args:
        path: the file.
        shown: how error messages name it (default: the path).
        frame: of a DICOM file, counted from 1; None: the middle one.
        white: value of white in pixels of more than 8 bits; None: as :func:`.white_level` finds it
            in this image. A set, and the model trained on it, has one for all its images.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: the file is empty, truncated, not an image, too small or too large.
    """
    name = shown or str(path)
    if is_dicom(path):
        _check_file(path, name, MAX_DICOM_BYTES)
        return decode_dicom(path, shown=name, frame=frame, white=white)
    return _decode(path, name, partial(_to_grey, white=white, path=path))


def decode_for_model(
    path: Path, *, shown: str | None = None, frame: int | None = None, white: float | None = None
) -> GreyImage:
    """Read an image that a model is asked about, as :func:`decode_image` does.

    Raises:
        InputError: it cannot be read, or it is nearly black: any answer would mean nothing.
    """
    image = decode_image(path, shown=shown, frame=frame, white=white)
    if is_nearly_black(image):
        raise InputError(
            f"{shown or path}: the image is nearly black as it is read (99 of 100 pixels are at "
            f"most {int(np.quantile(image, 0.99))} of 255), and a model can say nothing of it; "
            "save it as an 8-bit grey PNG that shows what you see."
        )
    return image


def white_level_of(path: Path, frame: int | None = None) -> float | None:
    """Return the white level of an image's own values; None: they have 8 bits.

    Raises:
        InputError: the image cannot be read.
    """
    if is_dicom(path):
        return dicom_white_level(path, frame)
    if not may_be_deep(path):
        return None
    found: list[float] = []

    def measure(image: Image.Image) -> GreyImage:
        values = _deep_values(image, path)
        if values is not None:
            found.append(white_level(values))
        return np.zeros((1, 1), dtype=np.uint8)

    _decode(path, str(path), measure)
    return found[0] if found else None


def upright_size(path: Path) -> tuple[int, int]:
    """Return width and height, in pixels, of an image file as :func:`decode_image` turns it.

    Args:
        path: the file; not DICOM.

    Raises:
        InputError: the file is empty, not an image, or too large.
    """
    name = str(path)
    try:
        _check_file(path, name, MAX_FILE_BYTES)
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            # Asking a PNG for its tags decodes all of it; few have any.
            told = image.format != "PNG" or any(tag in path.read_bytes() for tag in _PNG_TAGS)
            turned = width != height and told and image.getexif().get(ORIENTATION_TAG, 1) in _ASIDE
            return (height, width) if turned else (width, height)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{name}: not a readable image ({reason_of(error)}).") from None


def may_be_deep(path: Path) -> bool:
    """Return whether pixels may have more than 8 bits, told quickly from the first bytes."""
    if is_dicom(path):
        return True
    if not path.is_file():
        return False
    try:
        with path.open("rb") as stream:
            head = stream.read(26)
    except OSError:
        return False
    if head.startswith(b"\x89PNG"):
        return head[24:25] == b"\x10"
    return head.startswith((b"II", b"MM"))


def decode_mask(path: Path, *, shown: str | None = None) -> GreyImage:
    """Read a lesion mask, whatever its colours.

    Args:
        path: the file.
        shown: how error messages name it (default: the path).

    Returns:
        (H, W) uint8: 255 where the brightest of a pixel's colours is above 127, otherwise 0.

    Raises:
        InputError: as :func:`decode_image`.
    """
    return _decode(path, shown or str(path), partial(_to_mask, path=path))


def _check_file(path: Path, name: str, max_bytes: int) -> None:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"{name}: cannot be read ({error.strerror or error}).") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{name}: not a file; name image files, or folders of them.")
    if status.st_size == 0:
        raise InputError(f"{name}: the file is empty; restore or remove it.")
    if status.st_size > max_bytes:
        raise InputError(f"{name}: {status.st_size / 1e6:.0f} MB is too large for an image file.")


def _decode(path: Path, name: str, convert: Callable[[Image.Image], GreyImage]) -> GreyImage:
    try:
        _check_file(path, name, MAX_FILE_BYTES)
        with Image.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise InputError(
                    f"{name}: {width}×{height} pixels are more than the "
                    f"{MAX_IMAGE_PIXELS // 1_000_000} million allowed; shrink or remove it."
                )
            if min(width, height) < MIN_SIDE_PIXELS:
                raise InputError(f"{name}: {width}×{height} pixels are too few for an image.")
            image.load()
            return convert(_upright(image))
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(
            f"{name}: the image is too large (over {MAX_IMAGE_PIXELS // 1_000_000} million "
            "pixels); shrink or remove it."
        ) from None
    except UnidentifiedImageError:
        raise InputError(f"{name}: not a readable image; restore or remove it.") from None
    except Exception as error:
        # Decoders raise whatever they like on damaged input: struct.error, KeyError, zlib.error …
        raise InputError(
            f"{name}: the image is damaged or unreadable ({reason_of(error)})."
        ) from None


def _upright(image: Image.Image) -> Image.Image:
    """Turn an image as its orientation tag says."""
    if image.getexif().get(ORIENTATION_TAG, 1) == 1:
        return image
    turned = ImageOps.exif_transpose(image)
    # What is known of the file is still asked for.
    turned.format = image.format
    return turned


def _to_grey(image: Image.Image, *, white: float | None = None, path: Path) -> GreyImage:
    values = _deep_values(image, path)
    if values is not None:
        white = white or white_level(values)
        scaled = scale_to_grey(values, white)
        # Pillow turns such greys round only where they have 8 bits.
        inverted = image.format == "TIFF" and _tiff_tag(image, _WHITE_IS_ZERO) == 0
        return 255 - scaled if inverted else scaled
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        image = Image.alpha_composite(ground, coloured)
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _tiff_tag(image: Image.Image, tag: int) -> object:
    tags = getattr(image, "tag_v2", {})
    return tags.get(tag)


def is_deep(image: Image.Image, path: Path) -> bool:
    """Return whether the pixels of an opened image file have more than 8 bits."""
    if image.mode in (*_GREY_16, "I", "F"):
        return True
    return image.format == "PNG" and may_be_deep(path)


def _deep_values(image: Image.Image, path: Path) -> Values | None:
    """The grey values (H, W) of an image whose pixels have more than 8 bits; None for others."""
    if not is_deep(image, path):
        return None
    if image.mode in _GREY_16:
        return np.asarray(image).astype(np.uint16)
    if image.mode in ("I", "F"):
        return np.asarray(image)
    # Pillow keeps the upper 8 bits of colour only, which are black where the lower ones are used.
    import torch
    from torchvision.io import ImageReadMode, decode_png

    content = torch.frombuffer(bytearray(path.read_bytes()), dtype=torch.uint8)
    decoded = decode_png(content, mode=ImageReadMode.UNCHANGED).numpy()
    colours: Values = np.moveaxis(decoded, 0, -1).astype(np.int64)
    if colours.shape[2] in (2, 4):
        colours = colours[..., :-1] * colours[..., -1:] // 65535
    return luminance(colours) if colours.shape[2] == 3 else colours[..., 0]


def _to_mask(image: Image.Image, *, path: Path) -> GreyImage:
    if image.mode in ("RGB", "P", "PA", "LA", "RGBA"):
        coloured = image.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        colours = np.asarray(Image.alpha_composite(ground, coloured))[:, :, :3].max(axis=2)
    else:
        colours = _to_grey(image, path=path)
    return np.where(colours > 127, 255, 0).astype(np.uint8)


def resize_image(image: GreyImage, size_pixels: int) -> GreyImage:
    """Resize to a square with an antialiased bilinear filter (aspect ratio is not kept).

    Args:
        image: (H, W) uint8.
        size_pixels: side S of the result.

    Returns:
        (S, S) uint8.
    """
    if image.shape == (size_pixels, size_pixels):
        return image
    resized = Image.fromarray(image).resize((size_pixels, size_pixels), Image.Resampling.BILINEAR)
    return np.asarray(resized, dtype=np.uint8)
