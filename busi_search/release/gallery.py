"""The development images the winner got wrong, and those it was least sure of."""

import base64
import html
import io

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.images import resize_image

THUMBNAIL_PIXELS = 128
IMAGES_PER_KIND = 12


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
    if len(indices) == 0:
        return "<p>None.</p>"
    figures = []
    for index, image in zip(indices, dataset.subset(indices).images(), strict=True):
        buffer = io.BytesIO()
        thumbnail = Image.fromarray(resize_image(image, THUMBNAIL_PIXELS))
        thumbnail.save(buffer, "JPEG", quality=80)
        data = base64.b64encode(buffer.getvalue()).decode()
        row = probabilities[index]
        name = html.escape(dataset.paths[index])
        called = html.escape(dataset.class_names[int(row.argmax())])
        truth = html.escape(dataset.class_names[int(dataset.labels[index])])
        figures.append(
            f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
            f"<figcaption><b>{truth}</b>, called {called} ({row.max():.0%})<br>{name}"
            "</figcaption></figure>"
        )
    return f'<div class="strip">{"".join(figures)}</div>'
