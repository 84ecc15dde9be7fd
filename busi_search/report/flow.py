"""From the folder to the test: how many images and patients went where."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from busi_search.release.winner import Winner
from busi_search.report.elsewhere import OTHER, Place
from busi_search.report.in_words import images_of_patients
from busi_search.search.context import StudyContext


@dataclass(frozen=True)
class Box:
    """A box of the diagram.

    Attributes:
        title: what it is.
        num_images: in it.
        lines: what is said of them.
    """

    title: str
    num_images: int
    lines: Sequence[str]


@dataclass(frozen=True)
class Flow:
    """The diagram; images of ``source`` are those of ``left_out``, ``development`` and ``test``.

    Attributes:
        source: all images that were read.
        left_out: images with contradictory labels.
        development: images of the search.
        test: the sealed test.
        elsewhere: images of other hospitals that were evaluated.
    """

    source: Box
    left_out: Box
    development: Box
    test: Box
    elsewhere: Sequence[Box]


def make_flow(winner: Winner, places: Sequence[Place]) -> Flow:
    """Return the diagram of a study.

    Args:
        winner: the study's winner.
        places: where its model was judged, see :func:`.judged_places`.
    """
    context, partition = winner.context, winner.context.partition
    everyone = np.arange(len(partition.groups))
    source = [images_of_patients(context, everyone), *_classes(context.class_counts)]
    return Flow(
        source=Box(context.development.name, len(everyone), source),
        left_out=Box("Left out", len(partition.quarantined), [_why_left_out(context)]),
        development=Box("Development", len(partition.development), _development(winner)),
        test=Box("Sealed test", len(partition.test), _test(winner, places)),
        elsewhere=[_elsewhere(place) for place in places if place.kind == "elsewhere"],
    )


def _classes(counts: Mapping[str, int]) -> list[str]:
    if not counts:
        return []
    return [", ".join(f"{number:,} {name}" for name, number in counts.items())]


def _why_left_out(context: StudyContext) -> str:
    number = len(context.partition.conflicts)
    if not number:
        return "no near-duplicates with contradictory labels"
    groups = "group" if number == 1 else "groups"
    return f"in {number} {groups} of near-duplicates whose labels contradict each other"


def _development(winner: Winner) -> list[str]:
    context = winner.context
    labels, names = context.development.labels, context.development.class_names
    sizes = [len(fold.validation) for fold in context.partition.folds]
    spread = f"{min(sizes):,}" if min(sizes) == max(sizes) else f"{min(sizes):,} to {max(sizes):,}"
    return [
        images_of_patients(context, context.partition.development),
        ", ".join(f"{int(np.sum(labels == c)):,} {name}" for c, name in enumerate(names)),
        f"{len(sizes)} folds of {spread} images, each held out once",
        f"{len(winner.trials):,} configurations tried; number {winner.number} was chosen",
        f"the model: the average of its {len(winner.folds)} fold models",
    ]


def _test(winner: Winner, places: Sequence[Place]) -> list[str]:
    context = winner.context
    lines = []
    if len(context.partition.test):
        lines.append(images_of_patients(context, context.partition.test))
    opened = [place for place in places if place.kind == "test"]
    if not opened:
        others = [place.title.rpartition(", ")[2] for place in places if place.kind == OTHER]
        if others:
            return [*lines, f"opened for {' and '.join(others)}, not for this model"]
        return [*lines, "no figures of this model yet"]
    figures = opened[0].figures
    name = context.development.class_names[context.development.positive]
    others = figures["num_images"] - figures["num_positive"]
    return [
        *lines,
        f"{figures['num_positive']:,} {name}, {others:,} other",
        f"evaluated with {opened[0].title.removeprefix('own sealed test, ')} of the model",
    ]


def _elsewhere(place: Place) -> Box:
    data = place.data
    lines = [f"{data['num_images']:,} images were read, {data['num_evaluated']:,} evaluated"]
    if place.left_out:
        lines.append(place.left_out.removesuffix("."))
    lines.append(f"{place.figures['num_groups']:,} groups of images")
    return Box(place.title, int(place.figures["num_images"]), lines)
