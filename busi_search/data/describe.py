"""What is in a dataset: counts, near-duplicates, contradictory labels."""

import base64
import html
import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.busi import load_busi
from busi_search.data.dataset import ImageDataset
from busi_search.data.duplicates import conflicting_groups
from busi_search.data.images import GreyImage, resize_image
from busi_search.data.medmnist import load_medmnist
from busi_search.data.partition import find_groups
from busi_search.errors import InputError
from busi_search.spec import user_path

THUMBNAIL_PIXELS = 128
SAMPLES_PER_CLASS = 24
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem .75rem; }
.strip { display: flex; flex-wrap: wrap; gap: .5rem; border-bottom: 1px solid #ddd;
         padding: .5rem 0; }
figure { margin: 0; width: 8rem; } img { width: 8rem; } figcaption { font-size: .7rem;
         overflow-wrap: anywhere; }
"""


def open_dataset(path: str) -> ImageDataset:
    """Load a folder of class folders or a MedMNIST .npz file.

    Raises:
        InputError: it is neither, or not usable.
    """
    place = user_path(path)
    if place.is_dir():
        return load_busi(place)
    if place.suffix.lower() == ".npz":
        return load_medmnist(place)
    raise InputError(f"{path}: neither a folder of class folders nor a MedMNIST .npz file.")


def check_dataset(path: str, *, cache: Path) -> dict[str, Any]:
    """Read every image of a dataset and find near-duplicates.

    Args:
        path: a folder of class folders or an .npz file.
        cache: folder where the detection is kept for the next run.

    Returns:
        ``num_images``, ``classes`` {name: count}, and ``groups`` and ``conflicts``: lists of lists
        of two or more image names relative to ``path``; a conflict is a group whose labels differ.

    Raises:
        InputError: an image cannot be read.
    """
    dataset = open_dataset(path)
    groups = find_groups(dataset, "auto", cache)
    clashing = conflicting_groups(groups, dataset.labels)
    return {
        "num_images": len(dataset),
        "classes": {
            name: int(np.sum(dataset.labels == label))
            for label, name in enumerate(dataset.class_names)
        },
        "groups": [names for _, names in _members(dataset, groups)],
        "conflicts": [names for group, names in _members(dataset, groups) if group in clashing],
        "fingerprint": dataset.fingerprint,
    }


def _members(dataset: ImageDataset, groups: npt.NDArray[np.int64]) -> list[tuple[int, list[str]]]:
    """Names of the images of every group of two or more."""
    found: dict[int, list[str]] = {}
    for path, group in zip(dataset.paths, groups.tolist(), strict=True):
        found.setdefault(group, []).append(path)
    return [(group, names) for group, names in sorted(found.items()) if len(names) > 1]


def describe_dataset(path: str, *, cache: Path) -> str:
    """Return a self-contained HTML page: counts, sizes, intensities, samples, twins side by side.

    Args:
        path: a folder of class folders or an .npz file.
        cache: folder where the detection is kept for the next run.

    Raises:
        InputError: an image cannot be read.
    """
    dataset = open_dataset(path)
    groups = find_groups(dataset, "auto", cache)
    thumbnails, rows = [], []
    for image in dataset.images():
        rows.append((image.shape[0], image.shape[1], float(image.mean()), float(image.std())))
        thumbnails.append(resize_image(image, THUMBNAIL_PIXELS))
    measures = np.asarray(rows)
    clashing = set(conflicting_groups(groups, dataset.labels).tolist())
    members = {int(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    twins = {g: found for g, found in members.items() if len(found) > 1}
    parts = [
        f"<h1>{html.escape(dataset.name)}</h1>",
        f"<p>{len(dataset)} images in {len(members)} groups; {len(twins)} are groups of "
        f"near-duplicates with {sum(map(len, twins.values()))} images, {len(clashing)} of them "
        f"with contradictory labels. Fingerprint {dataset.fingerprint}.</p>",
        _class_table(dataset, measures),
    ]
    for label, name in enumerate(dataset.class_names):
        chosen = np.flatnonzero(dataset.labels == label)
        step = max(1, len(chosen) // SAMPLES_PER_CLASS)
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(_strip(dataset, thumbnails, chosen[::step][:SAMPLES_PER_CLASS]))
    for title, wanted in (("Contradictory labels", True), ("Near-duplicates", False)):
        parts.append(f"<h2>{title}</h2>")
        shown = [found for g, found in twins.items() if (g in clashing) == wanted]
        parts += [_strip(dataset, thumbnails, found) for found in shown] or ["<p>None.</p>"]
    title = f"{html.escape(dataset.name)} – images"
    head = f'<meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>"


def _class_table(dataset: ImageDataset, measures: npt.NDArray[np.float64]) -> str:
    rows = ["<tr><th>class</th><th>images</th><th>height, width (median, pixels)</th>"
            "<th>mean grey</th><th>contrast (SD of grey)</th></tr>"]  # fmt: skip
    for label, name in enumerate(dataset.class_names):
        inside = measures[dataset.labels == label]
        height, width, mean, contrast = np.median(inside, axis=0)
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{len(inside)}</td>"
            f"<td>{height:.0f}, {width:.0f}</td><td>{mean:.0f}</td><td>{contrast:.0f}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _strip(
    dataset: ImageDataset, thumbnails: list[GreyImage], indices: npt.NDArray[np.integer]
) -> str:
    """Images in a row, each with its name and class."""
    figures = []
    for index in indices:
        buffer = io.BytesIO()
        Image.fromarray(thumbnails[index]).save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        caption = f"{dataset.paths[index]} ({dataset.class_names[dataset.labels[index]]})"
        figures.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{html.escape(caption)}</figcaption></figure>"
        )
    return f'<div class="strip">{"".join(figures)}</div>'
