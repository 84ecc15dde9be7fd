"""How an audit divides development images: outer parts that its repeated searches never see."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from busi_search.data.folds import Fold, make_folds
from busi_search.errors import InputError
from busi_search.search.context import StudyContext
from busi_search.seeding import derive_seed

Indices = npt.NDArray[np.int64]

# An outer part is a fifth of the groups, and five of them make a round in which every image is
# outside once.
PARTS_OF_A_ROUND = 5


@dataclass(frozen=True)
class OuterSplit:
    """One division of the D development images.

    Attributes:
        number: of the repeat, from 0.
        seed: of the repeated search.
        inner: sorted positions of the images that the search may see.
        outer: sorted positions of those that it may not; no group is in both.
        folds: cross-validation folds of ``inner``, as positions among all D images.
    """

    number: int
    seed: int
    inner: Indices
    outer: Indices
    folds: tuple[Fold, ...]


def parts_of_a_round(context: StudyContext) -> int:
    """Return how many outer parts show every image once: the sites, where they are the folds."""
    by_site = context.spec.dataset.folds == "site"
    return len(context.partition.folds) if by_site else PARTS_OF_A_ROUND


def outer_split(context: StudyContext, number: int) -> OuterSplit:
    """Divide a study's development images for one repeat; the sealed test has no part in it.

    The outer part is a fifth of the groups, stratified, or a whole site where ``folds = "site"``.
    Folds of the rest are drawn as the study drew its own; folds that the authors or the sites name
    are the study's, without the outer images.

    Args:
        context: the study.
        number: of the repeat.

    Raises:
        InputError: too few groups or sites.
    """
    section, development, groups = context.spec.dataset, context.development, context.groups
    round_of, part = divmod(number, parts_of_a_round(context))
    seed = derive_seed(context.spec.study.seed, number, -1, "audit") % 2**31
    if section.folds == "site":
        if len(context.partition.folds) < 3:
            raise InputError(
                f"Study '{context.name}' leaves out one of two sites: without an outer site, one "
                "is left, which cannot be searched; an audit needs three sites or more."
            )
        outer = context.partition.folds[part].validation
        outside = np.isin(groups, groups[outer])
    else:
        outer = make_folds(
            development.labels,
            groups,
            num_folds=PARTS_OF_A_ROUND,
            seed=derive_seed(context.spec.study.seed, round_of, -1, "audit parts"),
            class_names=development.class_names,
        )[part].validation
        outside = np.isin(np.arange(len(groups)), outer)
    inner = np.flatnonzero(~outside).astype(np.int64)
    if section.folds == "stratified":
        drawn = make_folds(
            development.labels[inner],
            groups[inner],
            num_folds=section.num_folds,
            seed=derive_seed(seed, -1, -1, "folds"),
            class_names=development.class_names,
        )
        folds = [Fold(inner[fold.train], inner[fold.validation]) for fold in drawn]
    else:
        folds = _without_outer(context, inner)
    return OuterSplit(number, seed, inner, outer.astype(np.int64), tuple(folds))


def _without_outer(context: StudyContext, inner: Indices) -> list[Fold]:
    """The study's folds, of the inner images only; a fold of which nothing is left falls away."""
    labels, classes = context.development.labels, range(len(context.development.class_names))
    folds = []
    for fold in context.partition.folds:
        validation = np.intersect1d(fold.validation, inner)
        if not len(validation):
            continue
        left = Fold(np.intersect1d(fold.train, inner), validation)
        if any(set(labels[part]) != set(classes) for part in (left.train, left.validation)):
            raise InputError(
                f"Study '{context.name}' has too few images for an audit: without an outer part, a "
                "fold lacks a class."
            )
        folds.append(left)
    return folds
