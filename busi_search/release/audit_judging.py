"""A repeated search's winner, asked about the images that the repeat never saw."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt
from optuna.trial import FrozenTrial

from busi_search.data.folds import Fold
from busi_search.errors import BusiSearchError
from busi_search.release.audit_report import Repeat, outer_estimates
from busi_search.release.audit_splits import OuterSplit
from busi_search.release.rebuild import REBUILD_TOLERANCE
from busi_search.release.winner import Winner, estimate_scores, find_winner
from busi_search.search.context import StudyContext
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import fold_results
from busi_search.search.store.records import num_finished
from busi_search.training.metrics import softmax


def judge_repeat(context: StudyContext, split: OuterSplit, trials: list[FrozenTrial]) -> Repeat:
    """Choose a repeat's winner as a study does, and ask its fold models about the outer part.

    Args:
        context: the repeat, see :func:`repeat_context`.
        split: its images.
        trials: its finished search.

    Raises:
        BusiSearchError: no trial is complete, or the winner does not come out as it was scored.
    """
    inner = _inner_context(context, split)
    winner = find_winner(inner, trials)
    if winner is None:
        raise BusiSearchError(
            f"Repeat {split.number} has no fully evaluated trial; give it more --trials."
        )
    metric, development = context.spec.study.metric, context.development
    models, difference = _on_outer(context, split, winner)
    groups = context.groups[split.outer]
    outer, ensemble = outer_estimates(
        models,
        development.labels[split.outer],
        groups,
        metric=metric,
        positive=development.positive,
        seed=split.seed,
    )
    return Repeat(
        number=split.number,
        num_inner=len(split.inner),
        num_outer=len(split.outer),
        num_outer_groups=len(np.unique(groups)),
        trials=num_finished(trials),
        winner=winner.number,
        corrected=estimate_scores(inner, winner.trials, (metric,))[metric],
        outer=outer,
        ensemble=ensemble,
        rebuilt_difference=difference,
    )


def _inner_context(context: StudyContext, split: OuterSplit) -> StudyContext:
    """The repeat without its outer images, for all that is computed from stored predictions."""
    folds = tuple(
        Fold(np.searchsorted(split.inner, f.train), np.searchsorted(split.inner, f.validation))
        for f in split.folds
    )
    partition = replace(
        context.partition, development=context.partition.development[split.inner], folds=folds
    )
    return replace(
        context, partition=partition, development=context.development.subset(split.inner)
    )


def _on_outer(
    context: StudyContext, split: OuterSplit, winner: Winner
) -> tuple[npt.NDArray[np.float64], float]:
    """Train the winner's fold models again; return what they say of the outer images.

    Each fold is scored on its own validation images too, whose stored predictions must come out
    again: else these are not the models that were chosen.

    Returns:
        (M, N, C) probabilities, and the largest difference from a stored one.
    """
    data = development_set(context, winner.hyperparameters)
    shown = [np.union1d(fold.validation, split.outer) for fold in split.folds]
    asked = [Fold(fold.train, rows) for fold, rows in zip(split.folds, shown, strict=True)]
    results = fold_results(
        cross_validate(
            replace(data, folds=asked),
            winner.hyperparameters,
            study_seed=context.spec.study.seed,
            trial_number=winner.number,
            device=context.device,
            cache=context.home.cache,
        )
    )
    outer, difference = [], 0.0
    for result in sorted(results, key=lambda found: found.fold):
        rows = softmax(result.log_probabilities)
        own = np.isin(shown[result.fold], split.folds[result.fold].validation)
        then = softmax(winner.folds[result.fold].log_probabilities)
        difference = max(difference, float(np.abs(rows[own] - then).max()))
        outer.append(rows[np.isin(shown[result.fold], split.outer)])
    if difference > REBUILD_TOLERANCE and context.device == "cpu":
        raise BusiSearchError(
            f"Repeat {split.number}: its winner was trained again and its predictions differ by up "
            f"to {difference:.3f}; versions or hardware changed. Delete "
            f"{context.home.study_folder(context.name)} and repeat."
        )
    return np.stack(outer), difference
