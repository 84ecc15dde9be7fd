"""Reading one image file, whatever its mode, as grey 8-bit pixels."""

import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from busi_search.errors import InputError, reason_of

MAX_IMAGE_PIXELS = 64_000_000
MAX_FILE_BYTES = 256_000_000
MIN_SIDE_PIXELS = 8
# Pillow knows formats that start other programs (EPS) or are containers; images need none of them.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "GIF", "WEBP")

GreyImage = npt.NDArray[np.uint8]


def decode_image(path: Path, *, shown: str | None = None) -> GreyImage:
    """Read an image file as grey 8-bit pixels.

    Colour becomes luminance (ITU-R BT.601), transparent pixels are laid over black, 16-bit and
    32-bit integer or float greys are scaled to 8 bits by their format's range (integers) or by
    their maximum (floats).

    Args:
        path: the file.
        shown: how error messages name it (default: the path).

    Returns:
        (H, W) uint8.

    Raises:
        InputError: the file is empty, truncated, not an image, too small or too large.
    """
    return _decode(path, shown or str(path), _to_grey)


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
    return _decode(path, shown or str(path), _to_mask)


def image_kind(path: Path) -> str:
    """Return an image file's format and colour mode, such as ``PNG RGB``.

    Raises:
        InputError: it is not a readable image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            return f"{image.format} {image.mode}"
    except Exception as error:
        raise InputError(f"{path}: not a readable image ({reason_of(error)}).") from None


def _decode(path: Path, name: str, convert: Callable[[Image.Image], GreyImage]) -> GreyImage:
    try:
        status = path.stat()
        num_bytes = status.st_size
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{name}: not a file; name image files, or folders of them.")
        if num_bytes == 0:
            raise InputError(f"{name}: the file is empty; restore or remove it.")
        if num_bytes > MAX_FILE_BYTES:
            raise InputError(f"{name}: {num_bytes / 1e6:.0f} MB is too large for an image file.")
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
            return convert(image)
    except InputError:
        raise
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise InputError(f"{name}: not a readable image ({type(error).__name__}).") from None
    except Exception as error:
        # Decoders raise whatever they like on damaged input: struct.error, KeyError, zlib.error …
        raise InputError(
            f"{name}: the image is damaged or unreadable ({reason_of(error)})."
        ) from None


def _to_grey(image: Image.Image) -> GreyImage:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N"):
        return (np.asarray(image).astype(np.uint32) // 257).astype(np.uint8)
    if image.mode in ("I", "F"):
        values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0, neginf=0)
        peak = float(values.max(initial=0))
        # Pillow opens some 16-bit PNGs as 32-bit integers: their range, not their peak, is white.
        white = 255.0 if peak <= 255 and image.mode == "I" else 65535.0
        if image.mode == "F":
            white = max(peak, 1e-12)
        return np.clip(values * (255.0 / white), 0, 255).astype(np.uint8)
    if image.mode in ("P", "PA", "LA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        coloured = image.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        image = Image.alpha_composite(ground, coloured)
    return np.asarray(image.convert("L"), dtype=np.uint8)


def _to_mask(image: Image.Image) -> GreyImage:
    if image.mode in ("RGB", "P", "PA", "LA", "RGBA"):
        coloured = image.convert("RGBA")
        ground = Image.new("RGBA", coloured.size, (0, 0, 0, 255))
        colours = np.asarray(Image.alpha_composite(ground, coloured))[:, :, :3].max(axis=2)
    else:
        colours = _to_grey(image)
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
