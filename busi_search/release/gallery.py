"""The development images the winner got wrong, and those it was least sure of."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.images import resize_image

THUMBNAIL_PIXELS = 128
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


def gallery_section(dataset: ImageDataset, probabilities: npt.NDArray[np.floating]) -> str:
    """Return the section of the report that shows them, images included.

    Args:
        dataset: the N development images.
        probabilities: (N, C) out-of-fold.
    """
    wrong, unsure = choose_images(probabilities, dataset.labels)
    num_wrong = int(np.sum(probabilities.argmax(axis=1) != dataset.labels))
    return (
        "<h2>Images to look at</h2><p>Answers of fold models that had not seen the image. This "
        "page holds these development images: hand it on only where you may hand on the images.</p>"
        f"<h3>Misclassified: {num_wrong} of {len(dataset)}, the surest first</h3>"
        f"{_strip(dataset, probabilities, wrong)}"
        "<h3>Correct, but least sure</h3>"
        f"{_strip(dataset, probabilities, unsure)}"
    )


def _strip(
    dataset: ImageDataset,
    probabilities: npt.NDArray[np.floating],
    indices: npt.NDArray[np.int64],
) -> str:
    captions = []
    for index in indices:
        row = probabilities[index]
        called = html.escape(dataset.class_names[int(row.argmax())])
        truth = html.escape(dataset.class_names[int(dataset.labels[index])])
        name = html.escape(dataset.paths[index])
        captions.append(f"<b>{truth}</b>, called {called} ({row.max():.0%})<br>{name}")
    return image_strip(dataset, indices, captions) if captions else "<p>None.</p>"


def image_strip(
    dataset: ImageDataset, indices: npt.NDArray[np.int64], captions: Sequence[str]
) -> str:
    """Return images in a row as HTML, each with its caption (HTML too)."""
    figures = []
    for caption, image in zip(captions, dataset.subset(indices).images(), strict=True):
        buffer = io.BytesIO()
        thumbnail = Image.fromarray(resize_image(image, THUMBNAIL_PIXELS))
        thumbnail.save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        figures.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return f'<div class="strip">{"".join(figures)}</div>'


def twins_section(
    dataset: ImageDataset, groups: npt.NDArray[np.integer], counts: Mapping[str, int]
) -> str:
    """Return the section about near-duplicates: the first groups side by side, all by name.

    Args:
        dataset: the N development images.
        groups: (N,) the group of each.
        counts: of the study's context; ``num_quarantined`` and ``num_conflicts`` are used.
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
        f"the development part; each stays in one fold. {counts['num_quarantined']} images in "
        f"{counts['num_conflicts']} groups with contradictory labels are left out of training, "
        "folds and test. <code>busi-search data describe</code> shows those too; "
        "<code>busi-search leak-gap</code> measures what twins would add if they were torn "
        f"apart.</p>{''.join(shown)}"
        f"<details><summary>All {len(twins)} groups by name</summary><ul>{listed}</ul></details>"
    )
