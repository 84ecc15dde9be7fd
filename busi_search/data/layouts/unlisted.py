"""What lies beside the images that a table or a published set lists, and is not read."""

import os

from busi_search.data.layouts.files import (
    is_image_file,
    kinds_of,
    may_be_image,
    reading,
    split_masks,
)
from busi_search.data.listing import Listing
from busi_search.wording import count_of


def left_out_notes(name: str, listing: Listing) -> list[str]:
    """Return sentences about images that lie beside listed ones and are not listed.

    Args:
        name: of the table or set, for the sentences.
        listing: the images that are read.
    """
    root = listing.root
    listed: dict[str, set[str]] = {}
    for image in listing.images:
        for file in (image.file, *image.masks):
            folder, _, base = file.rpartition("/")
            listed.setdefault(folder, set()).add(base)
    extra, unread = [], []
    for folder in sorted({image.file.rpartition("/")[0] for image in listing.images}):
        with reading(root / folder), os.scandir(root / folder) as entries:
            names = [e.name for e in entries if not e.name.startswith(".") and e.is_file()]
        rest = {root / folder / base for base in names if base not in listed[folder]}
        if not rest:
            continue
        every = [root / folder / base for base in names]
        images = [path for path in every if is_image_file(path)]
        extra += [path for path in split_masks(images)[0] if path in rest]
        unread += [path for path in rest - set(images) if may_be_image(path)]
    found = []
    if extra:
        first = min(extra).relative_to(root).as_posix()
        found.append(
            f"{name}: left out {count_of(len(extra), 'image file')} not listed, the first is "
            f"'{first}'."
        )
    if unread:
        first = min(unread).relative_to(root).as_posix()
        found.append(
            f"{name}: left out {count_of(len(unread), 'file')} of other formats beside the images "
            f"({kinds_of(unread)}), the first is '{first}'."
        )
    return found
