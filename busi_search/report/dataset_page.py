"""A dataset as one page: counts, sizes, grey levels, marks, twins, and what augmentation does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import plotly.graph_objects as go
import torch
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.describe import open_dataset
from busi_search.data.duplicates import conflicting_groups
from busi_search.data.groups import find_groups
from busi_search.data.images import GreyImage, resize_image
from busi_search.data.shortcuts import find_shortcuts, measure_files, separation
from busi_search.data.subgroups import find_subgroups, images_per_patient
from busi_search.report.burned_in_marks import count_mark_pixels, have_marks
from busi_search.report.charts import COLOURS, layout
from busi_search.report.gallery import Picture
from busi_search.report.rendering import jpeg_address, plot_html, render
from busi_search.spec import Hyperparameters
from busi_search.training.augment import augment_batch
from busi_search.training.from_hyperparameters import augmentation_ranges

THUMBNAIL_PIXELS = 128
SAMPLES_PER_CLASS = 24
IMAGES_WITH_MARKS_SHOWN = 12
AUGMENTED_IMAGES = 6
STRENGTHS = (0.0, 0.5, 1.0)

Indices = npt.NDArray[np.integer]


@dataclass(frozen=True)
class _Look:
    """What was seen of every image: (N,) measures, N thumbnails, (N, 256) shares of grey levels."""

    heights: npt.NDArray[np.float64]
    widths: npt.NDArray[np.float64]
    means: npt.NDArray[np.float64]
    contrasts: npt.NDArray[np.float64]
    mark_pixels: npt.NDArray[np.float64]
    thumbnails: Sequence[GreyImage]
    levels: npt.NDArray[np.float64]


@dataclass(frozen=True)
class _Class:
    """One class of the page: medians over its images, and some of them."""

    name: str
    num_images: int
    height: float
    width: float
    mean: float
    contrast: float
    num_marked: int
    samples: Sequence[Picture]


def describe_dataset(path: str, *, cache: Path) -> str:
    """Return a self-contained HTML page about a dataset.

    Args:
        path: a folder of class folders or an .npz file.
        cache: folder where the detection of near-duplicates is kept for the next run.

    Raises:
        InputError: an image cannot be read.
    """
    dataset = open_dataset(path, cache)
    groups = find_groups(dataset, "auto", cache).twins
    look = _look(dataset)
    files = measure_files(dataset, cache)
    clashing = set(conflicting_groups(groups, dataset.labels).tolist())
    members = {int(g): np.flatnonzero(groups == g) for g in np.unique(groups)}
    twins = {g: found for g, found in members.items() if len(found) > 1}
    sizes = {(int(w), int(h)) for w, h in zip(look.widths, look.heights, strict=True)}
    charts = [_grey_levels(dataset, look)]
    if len(sizes) > 1:
        charts.insert(0, _sizes(dataset, look))
    order = np.argsort(-look.mark_pixels, kind="stable")[:IMAGES_WITH_MARKS_SHOWN]
    return render(
        "dataset_page.html",
        name=dataset.name,
        num_images=len(dataset),
        num_groups=len(members),
        num_twin_groups=len(twins),
        num_twins=sum(map(len, twins.values())),
        num_clashing=len(clashing),
        fingerprint=dataset.fingerprint,
        classes=[_class(dataset, look, label) for label in range(len(dataset.class_names))],
        only_size=next(iter(sizes)) if len(sizes) == 1 else None,
        subgroups=find_subgroups(dataset),
        shortcuts=[found.text() for found in find_shortcuts(dataset, files)],
        separation=separation(dataset, files),
        notes=dataset.notes,
        images_per_patient=images_per_patient(dataset),
        charts=[plot_html(chart, with_library=n == 0) for n, chart in enumerate(charts)],
        marked=_pictures(dataset, look, order[look.mark_pixels[order] > 0]),
        augmented=[(strength, _augmented(look, strength)) for strength in STRENGTHS],
        contradictory=[_pictures(dataset, look, f) for g, f in twins.items() if g in clashing],
        near_duplicates=[
            _pictures(dataset, look, f) for g, f in twins.items() if g not in clashing
        ],
    )


def _look(dataset: ImageDataset) -> _Look:
    rows, thumbnails, levels = [], [], []
    for image in dataset.images():
        height, width = image.shape
        rows.append((height, width, image.mean(), image.std(), count_mark_pixels(image)))
        thumbnails.append(resize_image(image, THUMBNAIL_PIXELS))
        levels.append(np.bincount(image.ravel(), minlength=256) / image.size)
    heights, widths, means, contrasts, mark_pixels = np.asarray(rows, dtype=np.float64).T
    shares = np.asarray(levels)
    return _Look(heights, widths, means, contrasts, mark_pixels, thumbnails, shares)


def _class(dataset: ImageDataset, look: _Look, label: int) -> _Class:
    inside = dataset.labels == label
    chosen = np.flatnonzero(inside)
    step = max(1, len(chosen) // SAMPLES_PER_CLASS)
    return _Class(
        name=dataset.class_names[label],
        num_images=len(chosen),
        height=float(np.median(look.heights[inside])),
        width=float(np.median(look.widths[inside])),
        mean=float(np.median(look.means[inside])),
        contrast=float(np.median(look.contrasts[inside])),
        num_marked=int(have_marks(look.mark_pixels, look.widths)[inside].sum()),
        samples=_pictures(dataset, look, chosen[::step][:SAMPLES_PER_CLASS]),
    )


def _sizes(dataset: ImageDataset, look: _Look) -> go.Figure:
    chart = go.Figure()
    for label, name in enumerate(dataset.class_names):
        inside = dataset.labels == label
        chart.add_scatter(
            x=look.widths[inside],
            y=look.heights[inside],
            mode="markers",
            name=name,
            opacity=0.6,
            marker={"color": COLOURS[label % len(COLOURS)]},
        )
    return layout(chart, "Sizes", "width (pixels)", "height (pixels)")


def _grey_levels(dataset: ImageDataset, look: _Look) -> go.Figure:
    chart = go.Figure()
    for label, name in enumerate(dataset.class_names):
        levels = look.levels[dataset.labels == label]
        chart.add_scatter(
            x=4 * np.arange(64) + 2,
            y=levels.mean(axis=0).reshape(64, 4).sum(axis=1),
            mode="lines",
            name=name,
            line={"color": COLOURS[label % len(COLOURS)]},
        )
    return layout(chart, "Grey levels", "grey level (0 black, 255 white)", "share of pixels")


def _augmented(look: _Look, strength: float) -> list[Picture]:
    """Return the same few images as training sees them at a strength."""
    thumbnails = look.thumbnails
    order = np.linspace(0, len(thumbnails) - 1, AUGMENTED_IMAGES).round().astype(int)
    chosen = np.stack([thumbnails[i] for i in np.unique(order)])
    pixels = torch.from_numpy(chosen).unsqueeze(1).float()
    ranges = augmentation_ranges(Hyperparameters())
    altered = augment_batch(pixels, strength, torch.Generator().manual_seed(0), ranges)
    images = altered[:, 0].clamp(0, 255).round().to(torch.uint8).numpy()
    return [Picture(jpeg_address(Image.fromarray(image))) for image in images]


def _pictures(dataset: ImageDataset, look: _Look, indices: Indices) -> list[Picture]:
    return [
        Picture(
            jpeg_address(Image.fromarray(look.thumbnails[index])),
            name=f"{dataset.paths[index]} ({dataset.class_names[dataset.labels[index]]})",
        )
        for index in indices
    ]
