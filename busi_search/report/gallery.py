"""The development images the winner got wrong, and those it was least sure of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.special import logit

from busi_search.data.dataset import ImageDataset
from busi_search.data.geometry import WHOLE, Geometry, bring_to_size
from busi_search.release.winner import Winner
from busi_search.report.rendering import jpeg_address

THUMBNAIL_PIXELS = 128
IMAGES_PER_KIND = 12
GROUPS_SHOWN = 8

Indices = npt.NDArray[np.int64]
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
class Chosen:
    """Which development images to look at, as indices, one of every group.

    Attributes:
        missed: positive images that were not called so, the least suspected first.
        alarms: others that were called positive, the most suspected first.
        mixed: images of other classes that were taken for yet another one, the surest first.
        unsure: images that were called rightly, the nearest to the threshold first.
        num_missed, num_alarms, num_mixed: how many there are, all of every group counted.
    """

    missed: Indices
    alarms: Indices
    mixed: Indices
    unsure: Indices
    num_missed: int
    num_alarms: int
    num_mixed: int

    @property
    def shown(self) -> Indices:
        """All of them."""
        return np.concatenate([self.missed, self.alarms, self.mixed, self.unsure])


@dataclass(frozen=True)
class Gallery:
    """Images to look at.

    Attributes:
        kinds: title and pictures of each kind of error, missed positive images first.
        unsure: called rightly, the nearest to the threshold first.
        has_maps: whether it is shown what spoke for the answers.
    """

    kinds: Sequence[tuple[str, Sequence[Picture]]]
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
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    called: npt.NDArray[np.bool_],
    *,
    positive: int,
    threshold: float,
    groups: npt.NDArray[np.integer],
) -> Chosen:
    """Return which images to look at; at most 12 of each kind.

    Args:
        probabilities: (N, C) out-of-fold, calibrated.
        labels: (N,) truth.
        called: (N,) whether an image was called positive.
        positive: the class that is looked for.
        threshold: probability from which an image is called positive.
        groups: (N,) patients and near-duplicates, of which one image is shown.
    """
    scores, truth = probabilities[:, positive], labels == positive
    likeliest = probabilities.argmax(axis=1)
    missed, alarms = truth & ~called, ~truth & called
    mixed = ~truth & ~called & (likeliest != labels) & (likeliest != positive)
    right = ~(missed | alarms | mixed)
    odds = logit(np.clip(scores, 1e-9, 1 - 1e-9)) - logit(np.clip(threshold, 1e-9, 1 - 1e-9))
    return Chosen(
        missed=_first(missed, scores, groups),
        alarms=_first(alarms, -scores, groups),
        mixed=_first(mixed, -probabilities.max(axis=1), groups),
        unsure=_first(right, np.abs(odds), groups),
        num_missed=int(missed.sum()),
        num_alarms=int(alarms.sum()),
        num_mixed=int(mixed.sum()),
    )


def _first(
    which: npt.NDArray[np.bool_],
    key: npt.NDArray[np.floating],
    groups: npt.NDArray[np.integer],
) -> Indices:
    """The images with the smallest key, one of each group."""
    ordered = np.flatnonzero(which)
    ordered = ordered[np.argsort(key[ordered], kind="stable")]
    _, firsts = np.unique(groups[ordered], return_index=True)
    chosen: Indices = ordered[np.sort(firsts)][:IMAGES_PER_KIND]
    return chosen


def images_to_look_at(winner: Winner) -> Chosen:
    """Return which development images a winner's page shows."""
    return choose_images(
        winner.cross_fitted,
        winner.context.development.labels,
        winner.cross_fitted_called,
        positive=winner.context.development.positive,
        threshold=winner.calibration.operating_point.threshold,
        groups=winner.context.groups,
    )


def make_gallery(winner: Winner, maps: Maps) -> Gallery:
    """Return the images that a report shows.

    Args:
        winner: the study's winner.
        maps: where the model looked, (H, W) from 0 to 255, for images by index, where known.
    """
    development, chosen = winner.context.development, images_to_look_at(winner)
    name = development.class_names[development.positive]
    geometry = winner.context.geometry(winner.hyperparameters)
    seen = winner.context.images_for(winner.hyperparameters) if geometry.finds_lesion else None

    def pictures(indices: Indices, *, mixed: bool = False) -> list[Picture]:
        texts = [_answer(winner, index, mixed=mixed) for index in indices.tolist()]
        return _pictures(development, indices, texts, maps, geometry, seen)

    ill = int(np.sum(development.labels == development.positive))
    well = len(development) - ill
    kinds = [
        (f"Missed: {chosen.num_missed} of {ill} {name} images", pictures(chosen.missed)),
        (
            f"False alarms: {chosen.num_alarms} of {well} other images were called {name}",
            pictures(chosen.alarms),
        ),
    ]
    if len(development.class_names) > 2:
        title = f"Taken for a wrong class other than {name}: {chosen.num_mixed} images"
        kinds.append((title, pictures(chosen.mixed, mixed=True)))
    return Gallery(kinds, pictures(chosen.unsure), bool(maps))


def _answer(winner: Winner, index: int, *, mixed: bool) -> str:
    """What was answered, and how many images of the same group stand behind the picture."""
    development, groups = winner.context.development, winner.context.groups
    row = winner.cross_fitted[index]
    shown = int(row.argmax()) if mixed else development.positive
    answer = f", {100 * row[shown]:.0f} % {development.class_names[shown]}"
    others = int(np.sum(groups == groups[index])) - 1
    return answer if not others else f"{answer}; {others} more of this group"


def _pictures(
    dataset: ImageDataset,
    indices: npt.NDArray[np.int64],
    texts: Sequence[str],
    maps: Maps,
    geometry: Geometry = WHOLE,
    seen: npt.NDArray[np.uint8] | None = None,
) -> list[Picture]:
    """Images as a model sees them: as it saw them, or cut out anew."""
    pictures = []
    part = dataset.subset(indices)
    lesions = list(part.lesions()) if geometry.needs_lesion else [None] * len(part)
    rows = zip(indices.tolist(), texts, part.images(), lesions, strict=True)
    for index, text, image, lesion in rows:
        if seen is None:
            shown = bring_to_size(image, THUMBNAIL_PIXELS, geometry, lesion)
        else:
            parts = seen[index] if geometry.num_regions > 1 else seen[index][None]
            shown = np.stack([bring_to_size(view, THUMBNAIL_PIXELS) for view in parts])
        thumbnail = Image.fromarray(shown if shown.ndim == 2 else np.hstack(list(shown)))
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
