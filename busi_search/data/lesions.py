"""Where lesions are, and whether knowing it gives away the class."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from busi_search.data.dataset import ImageDataset
from busi_search.data.geometry import Box
from busi_search.errors import InputError
from busi_search.files import disk_errors, write_atomically

# The share of images with a known lesion may differ by this much from class to class.
MAX_DIFFERENCE = 0.02


def find_lesions(dataset: ImageDataset, cache: Path) -> list[Box | None]:
    """Return where every image's lesion is; read once, then kept in the cache.

    Args:
        dataset: N images.
        cache: folder of the cache.

    Returns:
        N boxes; None where none is known.

    Raises:
        InputError: a mask cannot be read.
    """
    stored = cache / "files" / f"{dataset.fingerprint}-lesions-{dataset.lesions_digest}.json"
    try:
        kept = json.loads(stored.read_text())
        if len(kept) == len(dataset):
            return [None if entry is None else Box(**entry) for entry in kept]
    except (OSError, ValueError, TypeError):
        pass
    found = list(dataset.lesions())
    with disk_errors(stored.parent):
        content = [None if box is None else asdict(box) for box in found]
        write_atomically(stored, json.dumps(content).encode())
    return found


def check_lesions(dataset: ImageDataset, lesions: Sequence[Box | None]) -> list[str]:
    """Make sure that having a lesion does not tell the class; return what is to be said.

    Args:
        dataset: N images.
        lesions: N places; None where none is known.

    Raises:
        InputError: no lesion is known at all, or the share of images that have one differs between
            classes by more than 0.02.
    """
    known = np.asarray([box is not None for box in lesions])
    if not known.any():
        raise InputError(
            f'region = "lesion" and "both" need lesion masks or boxes, and {dataset.name} has none '
            "(BUSI's masks stand beside the images as NAME_mask.png, a table names them in its "
            'column mask, or gives boxes in its column box); set region = "image".'
        )
    shares = {
        name: float(known[dataset.labels == label].mean())
        for label, name in enumerate(dataset.class_names)
        if (dataset.labels == label).any()
    }
    said = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
    if max(shares.values()) - min(shares.values()) > MAX_DIFFERENCE:
        raise InputError(
            f"{dataset.name}: which images have a lesion mask or box tells their class ({said}), "
            "so a region cut out by it would give the class away, in training and in every score; "
            'set region = "image", or list the images of the classes that have lesions in a table '
            "(busi-search data check FOLDER --write-table labels.csv)."
        )
    if known.all():
        return []
    return [
        f"{int(np.sum(~known))} of {len(known)} images have no lesion mask or box (with one: "
        f"{said}); the whole image is used instead."
    ]
