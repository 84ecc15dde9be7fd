"""A dataset as one page: counts, sizes, grey levels, marks, twins, and what augmentation does."""

import base64
import html
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import torch
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

from busi_search.data.dataset import ImageDataset
from busi_search.data.describe import open_dataset
from busi_search.data.duplicates import conflicting_groups
from busi_search.data.images import GreyImage, resize_image
from busi_search.data.partition import find_groups
from busi_search.report.charts import COLOURS, layout
from busi_search.spec import Hyperparameters
from busi_search.training.augment import augment_batch
from busi_search.training.from_hyperparameters import augmentation_ranges

THUMBNAIL_PIXELS = 128
SAMPLES_PER_CLASS = 24
IMAGES_WITH_MARKS_SHOWN = 12
AUGMENTED_IMAGES = 6
STRENGTHS = (0.0, 0.5, 1.0)
# A burned-in mark is nearly white and has an edge that no tissue has: so many grey levels from one
# pixel to the next. Images with so many such pixels, as a share of their width, are counted: on
# BUSI at 256 px nearly all of them do have marks; fainter marks are missed.
_WHITE, _EDGE, _SHARE = 200, 110, 1 / 16
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem .75rem; }
.strip { display: flex; flex-wrap: wrap; gap: .5rem; border-bottom: 1px solid #ddd;
         padding: .5rem 0; }
figure { margin: 0; width: 8rem; } img { width: 8rem; } figcaption { font-size: .7rem;
         overflow-wrap: anywhere; }
@media (max-width: 40rem) { figure, img { width: 6.5rem; } }
@media print { .strip figure, tr { break-inside: avoid; } }
"""


@dataclass(frozen=True)
class _Look:
    """What was seen of every image: (N, 5) measures, thumbnails, (N, 256) counts of grey levels."""

    measures: npt.NDArray[np.float64]
    thumbnails: list[GreyImage]
    levels: npt.NDArray[np.float64]


def count_mark_pixels(image: GreyImage) -> int:
    """Return how many pixels look like burned-in text, calipers or frames.

    Args:
        image: (H, W) uint8, as stored: after resizing, edges are no longer sharp.

    Returns:
        Number of nearly white pixels with a far darker one beside them: no tissue has such
        edges, but small specks of glare may.
    """
    lowest = minimum_filter(image, size=3)
    edge = (image >= _WHITE) & (image.astype(np.int16) - lowest >= _EDGE)
    # A stroke has such pixels side by side; a speck stands alone.
    neighbours = maximum_filter(_shifted_pairs(edge), size=3)
    return int(np.sum(edge & neighbours))


def _shifted_pairs(edge: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    pairs = np.zeros_like(edge)
    pairs[:, 2:] |= edge[:, 2:] & edge[:, 1:-1] & edge[:, :-2]
    pairs[2:, :] |= edge[2:, :] & edge[1:-1, :] & edge[:-2, :]
    return pairs


def describe_dataset(path: str, *, cache: Path) -> str:
    """Return a self-contained HTML page about a dataset.

    Args:
        path: a folder of class folders or an .npz file.
        cache: folder where the detection of near-duplicates is kept for the next run.

    Raises:
        InputError: an image cannot be read.
    """
    dataset = open_dataset(path)
    groups = find_groups(dataset, "auto", cache)
    look = _look(dataset)
    clashing = set(conflicting_groups(groups, dataset.labels).tolist())
    members = {int(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    twins = {g: found for g, found in members.items() if len(found) > 1}
    parts = [
        f"<h1>{html.escape(dataset.name)}</h1>",
        f"<p>{len(dataset)} images in {len(members)} groups; {len(twins)} are groups of "
        f"near-duplicates with {sum(map(len, twins.values()))} images, {len(clashing)} of them "
        f"with contradictory labels. Fingerprint {dataset.fingerprint}.</p>",
        _class_table(dataset, look.measures),
        *_charts(dataset, look),
    ]
    for label, name in enumerate(dataset.class_names):
        chosen = np.flatnonzero(dataset.labels == label)
        step = max(1, len(chosen) // SAMPLES_PER_CLASS)
        parts.append(f"<h2>{html.escape(name)}</h2>")
        parts.append(_strip(dataset, look.thumbnails, chosen[::step][:SAMPLES_PER_CLASS]))
    parts += [_marks(dataset, look), _augmentation(dataset, look)]
    for title, wanted in (("Contradictory labels", True), ("Near-duplicates", False)):
        parts.append(f"<h2>{title}</h2>")
        shown = [found for g, found in twins.items() if (g in clashing) == wanted]
        parts += [_strip(dataset, look.thumbnails, found) for found in shown] or ["<p>None.</p>"]
    title = f"{html.escape(dataset.name)} – images"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    return f"<!doctype html><html lang=en><head>{head}</head><body>{''.join(parts)}</body></html>"


def _look(dataset: ImageDataset) -> _Look:
    rows, thumbnails, levels = [], [], []
    for image in dataset.images():
        height, width = image.shape
        rows.append((height, width, image.mean(), image.std(), count_mark_pixels(image)))
        thumbnails.append(resize_image(image, THUMBNAIL_PIXELS))
        levels.append(np.bincount(image.ravel(), minlength=256) / image.size)
    return _Look(np.asarray(rows, dtype=np.float64), thumbnails, np.asarray(levels))


def _class_table(dataset: ImageDataset, measures: npt.NDArray[np.float64]) -> str:
    rows = ["<tr><th>class</th><th>images</th><th>height, width (median, pixels)</th>"
            "<th>mean grey</th><th>contrast (SD of grey)</th></tr>"]  # fmt: skip
    for label, name in enumerate(dataset.class_names):
        inside = measures[dataset.labels == label]
        height, width, mean, contrast, _ = np.median(inside, axis=0)
        rows.append(
            f"<tr><td>{html.escape(name)}</td><td>{len(inside)}</td>"
            f"<td>{height:.0f}, {width:.0f}</td><td>{mean:.0f}</td><td>{contrast:.0f}</td></tr>"
        )
    return f"<table>{''.join(rows)}</table>"


def _charts(dataset: ImageDataset, look: _Look) -> list[str]:
    sizes, greys = go.Figure(), go.Figure()
    for label, name in enumerate(dataset.class_names):
        inside = dataset.labels == label
        height, width = look.measures[inside, 0], look.measures[inside, 1]
        colour = COLOURS[label % len(COLOURS)]
        sizes.add_scatter(
            x=width, y=height, mode="markers", name=name, opacity=0.6, marker={"color": colour}
        )
        share = look.levels[inside].mean(axis=0).reshape(64, 4).sum(axis=1)
        greys.add_scatter(
            x=4 * np.arange(64) + 2, y=share, mode="lines", name=name, line={"color": colour}
        )
    layout(sizes, "Sizes", "width (pixels)", "height (pixels)")
    layout(greys, "Grey levels", "grey level (0 black, 255 white)", "share of pixels")
    found = np.unique(look.measures[:, :2], axis=0)
    parts, figures = [], [greys]
    if len(found) == 1:
        parts.append(f"<p>All images are {found[0, 1]:.0f} × {found[0, 0]:.0f} pixels.</p>")
    else:
        figures.insert(0, sizes)
    for index, figure in enumerate(figures):
        plot = figure.to_html(
            full_html=False,
            include_plotlyjs=index == 0,
            config={"responsive": True, "displayModeBar": False},
        )
        parts.append(f'<div class="plot">{plot}</div>')
    return parts


def _marks(dataset: ImageDataset, look: _Look) -> str:
    counts = look.measures[:, 4]
    marked = counts >= look.measures[:, 1] * _SHARE
    order = np.argsort(-counts, kind="stable")[:IMAGES_WITH_MARKS_SHOWN]
    rows = "".join(
        f"<tr><td>{html.escape(name)}</td><td>{int(marked[inside].sum())} of {int(inside.sum())}"
        f"</td><td>{marked[inside].mean():.0%}</td></tr>"
        for name, inside in (
            (name, dataset.labels == label) for label, name in enumerate(dataset.class_names)
        )
    )
    shown = order[counts[order] > 0]
    return (
        "<h2>Burned-in marks</h2><p>Text, calipers and frames that a network may read instead of "
        "the tissue, above all where one class has more of them. Counted are images with many "
        "nearly white pixels at edges sharper than tissue has; fainter marks are missed, and small "
        "or enlarged images have lost such edges.</p><table><tr><th>class</th>"
        f"<th>images with marks</th><th>share</th></tr>{rows}</table>"
        f"{_strip(dataset, look.thumbnails, shown) if len(shown) else '<p>None seen.</p>'}"
    )


def _augmentation(dataset: ImageDataset, look: _Look) -> str:
    order = np.linspace(0, len(dataset) - 1, AUGMENTED_IMAGES).round().astype(int)
    chosen = np.unique(order)
    pixels = torch.from_numpy(np.stack([look.thumbnails[i] for i in chosen])).unsqueeze(1).float()
    parts = [
        "<h2>What augmentation does</h2><p>The same images as trained on at "
        "<code>augmentation_strength</code> 0, .5 and 1, with the ranges of a study file that says "
        "nothing of its own; drawn anew in every epoch.</p>"
    ]
    ranges = augmentation_ranges(Hyperparameters())
    for strength in STRENGTHS:
        altered = augment_batch(pixels, strength, torch.Generator().manual_seed(0), ranges)
        images = altered[:, 0].clamp(0, 255).round().to(torch.uint8).numpy()
        parts.append(f"<h3>Strength {strength:g}</h3>{_images(list(images))}")
    return "".join(parts)


def _strip(
    dataset: ImageDataset, thumbnails: list[GreyImage], indices: npt.NDArray[np.integer]
) -> str:
    """Images in a row, each with its name and class."""
    captions = [
        f"{dataset.paths[index]} ({dataset.class_names[dataset.labels[index]]})"
        for index in indices
    ]
    return _images([thumbnails[index] for index in indices], captions)


def _images(images: Sequence[GreyImage], captions: Sequence[str] = ()) -> str:
    figures = []
    for index, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        caption = f"<figcaption>{html.escape(captions[index])}</figcaption>" if captions else ""
        figures.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{data}">{caption}</figure>'
        )
    return f'<div class="strip">{"".join(figures)}</div>'
