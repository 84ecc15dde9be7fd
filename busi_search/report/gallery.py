"""The development images the winner got wrong, and those it was least sure of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from busi_search.data.dataset import ImageDataset
from busi_search.data.geometry import WHOLE, Geometry, bring_to_size
from busi_search.report.rendering import jpeg_address

THUMBNAIL_PIXELS = 128
IMAGES_PER_KIND = 12
GROUPS_SHOWN = 8

Maps = Mapping[int, npt.NDArray[np.uint8]]


@dataclass(frozen=True)
class Picture:
    """An image of a page and what stands below it.

    Attributes:
        address: of the image, with its content.
        heat_address: the same image with what spoke for the answer; None where that is not known.
        label: set in bold.
        text: after it.
        name: of the file.
    """

    address: str
    heat_address: str | None = None
    label: str = ""
    text: str = ""
    name: str = ""


@dataclass(frozen=True)
class Gallery:
    """Images to look at.

    Attributes:
        num_images: of the development part.
        num_wrong: misclassified ones.
        wrong: misclassified, the surest first.
        unsure: correct, the least sure first.
        has_maps: whether it is shown what spoke for the answers.
    """

    num_images: int
    num_wrong: int
    wrong: Sequence[Picture]
    unsure: Sequence[Picture]
    has_maps: bool


@dataclass(frozen=True)
class Twins:
    """Groups of near-duplicates.

    Attributes:
        names: of the images of every group.
        shown: the pictures of the first groups.
        num_images: in all groups.
        num_quarantined: images left out because their near-duplicates are labelled otherwise.
    """

    names: Sequence[Sequence[str]]
    shown: Sequence[Sequence[Picture]]
    num_images: int
    num_quarantined: int


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


def make_gallery(
    dataset: ImageDataset,
    probabilities: npt.NDArray[np.floating],
    maps: Maps,
    geometry: Geometry = WHOLE,
) -> Gallery:
    """Return the images that a report shows.

    Args:
        dataset: the N development images.
        probabilities: (N, C) out-of-fold.
        maps: where the model looked, (H, W) from 0 to 255, for images by index, where known.
        geometry: what the model saw of an image, which is what is shown of it.
    """
    wrong, unsure = choose_images(probabilities, dataset.labels)
    return Gallery(
        num_images=len(dataset),
        num_wrong=int(np.sum(probabilities.argmax(axis=1) != dataset.labels)),
        wrong=_pictures(dataset, wrong, _answers(dataset, probabilities, wrong), maps, geometry),
        unsure=_pictures(dataset, unsure, _answers(dataset, probabilities, unsure), maps, geometry),
        has_maps=bool(maps),
    )


def _answers(
    dataset: ImageDataset,
    probabilities: npt.NDArray[np.floating],
    indices: npt.NDArray[np.int64],
) -> list[str]:
    rows = probabilities[indices]
    return [f", called {dataset.class_names[int(row.argmax())]} ({row.max():.0%})" for row in rows]


def _pictures(
    dataset: ImageDataset,
    indices: npt.NDArray[np.int64],
    texts: Sequence[str],
    maps: Maps,
    geometry: Geometry = WHOLE,
) -> list[Picture]:
    pictures = []
    part = dataset.subset(indices)
    lesions = list(part.lesions()) if geometry.needs_lesion else [None] * len(part)
    rows = zip(indices.tolist(), texts, part.images(), lesions, strict=True)
    for index, text, image, lesion in rows:
        seen = bring_to_size(image, THUMBNAIL_PIXELS, geometry, lesion)
        thumbnail = Image.fromarray(seen if seen.ndim == 2 else np.hstack(list(seen)))
        heat = jpeg_address(_paint(thumbnail, maps[index])) if index in maps else None
        pictures.append(
            Picture(
                address=jpeg_address(thumbnail),
                heat_address=heat,
                label=dataset.class_names[int(dataset.labels[index])],
                text=text,
                name=dataset.paths[index],
            )
        )
    return pictures


def _paint(image: Image.Image, heat: npt.NDArray[np.uint8]) -> Image.Image:
    """Lay a map over a grey image: the redder (a colour that the colour-blind see), the more."""
    opacity = Image.fromarray(heat // 4 * 3).resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(
        Image.new("RGB", image.size, (213, 94, 0)), image.convert("RGB"), opacity
    )


def find_twins(
    dataset: ImageDataset, groups: npt.NDArray[np.integer], *, num_quarantined: int
) -> Twins:
    """Return the groups of near-duplicates: the first as pictures, all by name.

    Args:
        dataset: the N development images.
        groups: (N,) the group of each.
        num_quarantined: images left out because their near-duplicates are labelled otherwise.
    """
    _, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    twins = [np.flatnonzero(inverse == group) for group in np.flatnonzero(sizes > 1)]
    chosen = [members[:IMAGES_PER_KIND] for members in twins[:GROUPS_SHOWN]]
    return Twins(
        names=[[dataset.paths[i] for i in members] for members in twins],
        shown=[_pictures(dataset, members, [""] * len(members), {}) for members in chosen],
        num_images=sum(map(len, twins)),
        num_quarantined=num_quarantined,
    )
