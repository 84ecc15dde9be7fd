"""How the winner's score grows with the number of images that it learns from."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from busi_search.data.folds import Fold
from busi_search.release.winner import Winner
from busi_search.search.cross_validation import DevelopmentSet, cross_validate, development_set
from busi_search.search.fold_result import fold_results
from busi_search.search.store.study_parts import LearningCurve, LearningPoint
from busi_search.seeding import derive_seed
from busi_search.training.cpu_setup import train_on_one_core

# How often each share of the groups of the training parts is drawn: together as much work as two
# trials.
NUM_DRAWS = {0.125: 4, 0.25: 2, 0.5: 2}
# A part with fewer images of a class teaches nothing that would hold for another part.
MIN_OF_CLASS = 3


def measure_learning_curve(winner: Winner) -> LearningCurve | None:
    """Return the winner's cross-validated score when it learns from fewer groups of images.

    The configuration and the images that are judged stay; of each fold's training part a random
    share of the groups is kept. The last point is the winner's own score. Nothing here is corrected
    for the choice of the configuration, which was made with all images.

    Args:
        winner: the study's winner.

    Returns:
        None where each fold has to be trained again rather than solved for, which would take as
        long as many trials, and where the training parts are too small to be divided.
    """
    if winner.hyperparameters.head != "logistic":
        return None
    train_on_one_core()
    context, settings = winner.context, winner.hyperparameters
    data = development_set(context, settings)
    rng = np.random.default_rng(derive_seed(context.spec.study.seed, -1, -1, "learning curve"))
    drawn = [
        (share, [_thinned(fold, share, data, rng) for fold in data.folds])
        for share, number in NUM_DRAWS.items()
        if _is_enough(data, share)
        for _ in range(number)
    ]
    if not drawn:
        return None
    parts = replace(data, folds=[fold for _, folds in drawn for fold in folds])
    steps = cross_validate(
        parts,
        settings,
        study_seed=context.spec.study.seed,
        trial_number=winner.number,
        device=context.device,
        cache=context.home.cache,
    )
    metric = context.spec.study.metric
    scores = [float(result.metrics[metric]) for result in fold_results(steps)]
    means = np.array(scores).reshape(len(drawn), len(data.folds)).mean(axis=1)
    return LearningCurve(
        trial=winner.number,
        metric=metric,
        points=tuple(_points(drawn, means, data, winner.metrics[f"cv_{metric}"])),
    )


def _is_enough(data: DevelopmentSet, share: float) -> bool:
    """Whether the parts hold, on average, enough images of every class."""
    fewest = min(
        int(np.bincount(data.labels[fold.train], minlength=data.num_classes).min())
        for fold in data.folds
    )
    return share * fewest >= MIN_OF_CLASS


def _thinned(fold: Fold, share: float, data: DevelopmentSet, rng: np.random.Generator) -> Fold:
    """Keep a random share of the groups of a fold's training part, every class among them."""
    groups = np.unique(data.groups[fold.train])
    number = max(2, round(share * len(groups)))
    while True:
        kept = rng.choice(groups, number, replace=False)
        train = fold.train[np.isin(data.groups[fold.train], kept)]
        if len(np.unique(data.labels[train])) == data.num_classes:
            return Fold(train, fold.validation)


def _points(
    drawn: list[tuple[float, list[Fold]]],
    means: npt.NDArray[np.float64],
    data: DevelopmentSet,
    own: float,
) -> Iterator[LearningPoint]:
    shares = np.array([share for share, _ in drawn])
    for share in sorted(set(shares)):
        chosen = means[shares == share]
        sizes = [len(fold.train) for found, folds in drawn if found == share for fold in folds]
        yield LearningPoint(
            share=float(share),
            num_images=round(float(np.mean(sizes))),
            score=float(chosen.mean()),
            low=float(chosen.min()),
            high=float(chosen.max()),
        )
    everything = round(float(np.mean([len(fold.train) for fold in data.folds])))
    yield LearningPoint(share=1.0, num_images=everything, score=own, low=own, high=own)
