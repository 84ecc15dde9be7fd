"""The development images the winner got wrong, and those it was least sure of."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.images import resize_image

THUMBNAIL_PIXELS = 128
ABOUT_MAPS = (
    "Below each image, in orange, what spoke for the class that was called (Grad-CAM at the last "
    "convolutional layer, by the model of the fold that held the image out). It is coarse and says "
    "where the network looked, not where a lesion is nor whether the reason is a good one."
)
IMAGES_PER_KIND = 12
GROUPS_SHOWN = 8


def choose_images(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return which images to look at.

    Args:
        probabilities: (N, C) out-of-fold.
        labels: (N,) truth.

    Returns:
        Indices of misclassified images, the surest error first, and of further images, all of them
        classified correctly, with the smallest lead of the first class over the second; at most 12
        of each kind.
    """
    called = probabilities.argmax(axis=1)
    ranked = np.sort(probabilities, axis=1)
    sure, lead = ranked[:, -1], ranked[:, -1] - ranked[:, -2]
    wrong = np.flatnonzero(called != labels)
    right = np.flatnonzero(called == labels)
    wrong = wrong[np.argsort(-sure[wrong], kind="stable")][:IMAGES_PER_KIND]
    right = right[np.argsort(lead[right], kind="stable")][:IMAGES_PER_KIND]
    return wrong, right


def gallery_section(
    dataset: ImageDataset,
    probabilities: npt.NDArray[np.floating],
    maps: Mapping[int, npt.NDArray[np.uint8]],
) -> str:
    """Return the section of the report that shows them, images included.

    Args:
        dataset: the N development images.
        probabilities: (N, C) out-of-fold.
        maps: where the model looked, (H, W) from 0 to 255, for images by index, where known.
    """
    wrong, unsure = choose_images(probabilities, dataset.labels)
    num_wrong = int(np.sum(probabilities.argmax(axis=1) != dataset.labels))
    return (
        "<h2>Images to look at</h2><p>Answers of fold models that had not seen the image. This "
        "page holds these development images: hand it on only where you may hand on the images.</p>"
        f"{f'<p>{ABOUT_MAPS}</p>' if maps else ''}"
        f"<h3>Misclassified: {num_wrong} of {len(dataset)}, the surest first</h3>"
        f"{_strip(dataset, probabilities, wrong, maps)}"
        "<h3>Correct, but least sure</h3>"
        f"{_strip(dataset, probabilities, unsure, maps)}"
    )


def _strip(
    dataset: ImageDataset,
    probabilities: npt.NDArray[np.floating],
    indices: npt.NDArray[np.int64],
    maps: Mapping[int, npt.NDArray[np.uint8]],
) -> str:
    captions = []
    for index in indices:
        row = probabilities[index]
        called = html.escape(dataset.class_names[int(row.argmax())])
        truth = html.escape(dataset.class_names[int(dataset.labels[index])])
        name = html.escape(dataset.paths[index])
        captions.append(f"<b>{truth}</b>, called {called} ({row.max():.0%})<br>{name}")
    return image_strip(dataset, indices, captions, maps) if captions else "<p>None.</p>"


def image_strip(
    dataset: ImageDataset,
    indices: npt.NDArray[np.int64],
    captions: Sequence[str],
    maps: Mapping[int, npt.NDArray[np.uint8]] = MappingProxyType({}),
) -> str:
    """Return images in a row as HTML, each with its caption (HTML too) and its map, if it has one.

    Args:
        dataset: the images.
        indices: of those to show.
        captions: one for each of them.
        maps: (H, W) from 0 to 255 by index; painted over a second copy of the image.
    """
    figures = []
    images = dataset.subset(indices).images()
    for index, caption, image in zip(indices.tolist(), captions, images, strict=True):
        thumbnail = Image.fromarray(resize_image(image, THUMBNAIL_PIXELS))
        shown = f'<img alt="" src="{_jpeg_address(thumbnail)}">'
        if index in maps:
            painted = _paint(thumbnail, maps[index])
            shown += f'<img alt="the same, with what spoke for it" src="{_jpeg_address(painted)}">'
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    return f'<div class="strip">{"".join(figures)}</div>'


def _paint(image: Image.Image, heat: npt.NDArray[np.uint8]) -> Image.Image:
    """Lay a map over a grey image: the redder (a colour that the colour-blind see), the more."""
    opacity = Image.fromarray(heat // 4 * 3).resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(
        Image.new("RGB", image.size, (213, 94, 0)), image.convert("RGB"), opacity
    )


def _jpeg_address(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def twins_section(
    dataset: ImageDataset, groups: npt.NDArray[np.integer], counts: Mapping[str, int]
) -> str:
    """Return the section about near-duplicates: the first groups side by side, all by name.

    Args:
        dataset: the N development images.
        groups: (N,) the group of each.
        counts: of the study's context; ``num_quarantined`` is used.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    twins = [np.flatnonzero(inverse == group) for group in np.flatnonzero(sizes > 1)]
    names = [" · ".join(html.escape(dataset.paths[i]) for i in members) for members in twins]
    shown = []
    for members in twins[:GROUPS_SHOWN]:
        chosen = members[:IMAGES_PER_KIND]
        captions = [
            f"<b>{html.escape(dataset.class_names[int(dataset.labels[i])])}</b><br>"
            f"{html.escape(dataset.paths[i])}"
            for i in chosen
        ]
        shown.append(f'<div class="twins">{image_strip(dataset, chosen, captions)}</div>')
    listed = "".join(f"<li>{row}</li>" for row in names)
    return (
        f"<p>{len(twins)} groups of near-duplicates with {sum(map(len, twins))} images stand in "
        f"the development part; each stays in one fold. {counts['num_quarantined']} images "
        "whose near-duplicates are labelled otherwise are left out of training, folds and "
        "test. <code>busi-search data describe</code> shows those too; "
        "<code>busi-search leak-gap</code> measures what twins would add if they were torn "
        f"apart.</p>{''.join(shown)}"
        f"<details><summary>All {len(twins)} groups by name</summary><ul>{listed}</ul></details>"
    )
