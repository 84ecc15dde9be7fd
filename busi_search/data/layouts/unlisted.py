"""What lies beside the images that a table or a published set lists, and is not read."""

from busi_search.data.layouts.files import (
    IMAGE_SUFFIXES,
    kinds_of,
    may_be_image,
    reading,
    split_masks,
)
from busi_search.data.listing import Listing


def left_out_notes(name: str, listing: Listing) -> list[str]:
    """Return sentences about images that lie beside listed ones and are not listed.

    Args:
        name: of the table or set, for the sentences.
        listing: the images that are read.
    """
    root = listing.root
    listed = {root / file for image in listing.images for file in (image.file, *image.masks)}
    extra, unread = [], []
    for folder in sorted({(root / image.file).parent for image in listing.images}):
        with reading(folder):
            files = [p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file()]
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES]
        extra += [path for path in split_masks(images)[0] if path not in listed]
        rest = set(files) - set(images) - listed
        unread += [path for path in rest if may_be_image(path)]
    found = []
    if extra:
        first = min(extra).relative_to(root).as_posix()
        found.append(
            f"{name}: {len(extra)} image file(s) are not listed and were left out, the first is "
            f"'{first}'."
        )
    if unread:
        first = min(unread).relative_to(root).as_posix()
        found.append(
            f"{name}: {len(unread)} file(s) beside the images are in formats that are not read "
            f"({kinds_of(unread)}), the first is '{first}'."
        )
    return found
