"""What an image file holds besides the pixels that are read: pages, tags, bits, transparency."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from busi_search.data.dicom import FRAMES_PER_FILE, even_frames, is_dicom, read_header
from busi_search.data.images import FORMATS, ORIENTATION_TAG, is_deep, may_be_deep
from busi_search.errors import InputError, reason_of


@dataclass(frozen=True)
class Container:
    """What an image file holds besides the pixels that are read.

    Attributes:
        kind: format and colour mode, such as ``PNG RGB``.
        pages: number of pages or frames.
        turned: whether a tag says that it lies on its side or is mirrored.
        deep: whether its pixels have more than 8 bits.
        transparent: whether pixels may be transparent.
    """

    kind: str
    pages: int = 1
    turned: bool = False
    deep: bool = False
    transparent: bool = False


def inspect_file(path: Path) -> Container:
    """Return what an image file holds, from its header.

    Raises:
        InputError: it is not a readable image.
    """
    if is_dicom(path):
        header = read_header(path)
        if header is None:
            raise InputError(f"{path}: this DICOM file holds no image; leave it out.")
        return Container(kind=f"DICOM {header.photometric}")
    try:
        with Image.open(path, formats=FORMATS) as image:
            return Container(
                kind=f"{image.format} {image.mode}",
                pages=int(getattr(image, "n_frames", 1)),
                turned=image.getexif().get(ORIENTATION_TAG, 1) != 1,
                deep=may_be_deep(path) and is_deep(image, path),
                transparent=image.has_transparency_data,
            )
    except Exception as error:
        raise InputError(f"{path}: not a readable image ({reason_of(error)}).") from None


def frames_to_judge(path: Path) -> list[int | None]:
    """Return the frames of a file to predict; None: the file is one image.

    Raises:
        InputError: it is DICOM and cannot be read.
    """
    header = read_header(path) if is_dicom(path) else None
    if header is None or header.num_frames == 1:
        return [None]
    return list(even_frames(header.num_frames, FRAMES_PER_FILE))


def notes_of_file(path: Path) -> tuple[str, ...]:
    """Return sentences on what of a file is not seen where one image of it is judged.

    Raises:
        InputError: it is not a readable image.
    """
    header = read_header(path) if is_dicom(path) else None
    if header is not None and header.num_frames > 1:
        middle = even_frames(header.num_frames, 1)[0]
        return (f"The file has {header.num_frames} frames; frame {middle} was judged.",)
    found = inspect_file(path)
    if found.pages > 1:
        return (f"The file has {found.pages} pages or frames; the first was judged.",)
    return ()
