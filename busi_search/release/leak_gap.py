"""How much scores inflate when near-duplicates fall into different folds."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import t

from busi_search.data.folds import make_folds
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.cross_validation import (
    DevelopmentSet,
    cross_validate,
    development_set,
)
from busi_search.search.fold_result import fold_results
from busi_search.search.store.foreign import best_of_study
from busi_search.search.store.open import find_study
from busi_search.search.store.records import (
    cv_metrics,
    stored_hyperparameters,
    trial_hyperparameters,
)
from busi_search.seeding import derive_seed
from busi_search.spec import Hyperparameters
from busi_search.training.cpu_setup import train_on_one_core


@dataclass(frozen=True)
class LeakGap:
    """One configuration on folds that ignore near-duplicates and on folds that keep them together.

    Attributes:
        trial: whose configuration.
        random: ``cv_`` figures on random folds, means over the seeds.
        grouped: on the study's grouped folds; same images, seeds and everything else.
        num_split_groups: groups that the random folds may split.
        num_seeds: trainings of either kind.
        gap: random minus grouped.
        gap_std: standard deviation of the gap from seed to seed; over the root of ``num_seeds`` it
            is the standard error of ``gap``.
    """

    trial: int
    random: dict[str, float]
    grouped: dict[str, float]
    num_split_groups: int
    num_seeds: int
    gap: dict[str, float]
    gap_std: dict[str, float]

    def ci95(self, name: str) -> tuple[float, float]:
        """Return the 95 % interval of a gap: Student's, over the seeds.

        It covers the seeds and the random division of these images, not another set of images.

        Args:
            name: of the figure, such as ``cv_auc``.
        """
        error = self.gap_std[name] / math.sqrt(self.num_seeds)
        half = float(t.ppf(0.975, self.num_seeds - 1)) * error
        return self.gap[name] - half, self.gap[name] + half

    def to_json(self) -> dict[str, Any]:
        """Return the gap as ``busi-search leak-gap --json`` prints it."""
        return asdict(self)


def measure_leak_gap(
    home: Home,
    study_name: str,
    number: int | None = None,
    *,
    num_seeds: int = 3,
    device: str = "cpu",
) -> LeakGap:
    """Measure how much a study's scores inflate when near-duplicates fall into different folds.

    Both kinds of folds are trained with fresh seeds, by which nothing was chosen: the score for
    which a trial was chosen is partly luck, and would make the gap look smaller. Each seed draws
    its own random folds.

    Args:
        home: where the stores are.
        study_name: the study.
        number: trial whose configuration is used (default: the best).
        num_seeds: trainings of either kind, at least 2.
        device: PyTorch's name of the device.

    Raises:
        InputError: no such study or trial, or the data is gone or changed.
    """
    study = find_study(home, study_name)
    if number is None:
        best = best_of_study(study)
        if best is None:
            raise InputError(
                f"Study '{study_name}' has no trial that was evaluated on all folds yet."
            )
        number = best.number
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials) or not stored_hyperparameters(trials[number]):
        raise InputError(f"Study '{study_name}' has no trial {number} with a configuration.")
    context = reopen_study(study, home=home, device=device)
    hyperparameters = trial_hyperparameters(trials[number])
    sizes = np.unique(context.groups, return_counts=True)[1]
    train_on_one_core()
    grouped = development_set(context, hyperparameters)
    seeds = [derive_seed(context.spec.study.seed, number, s, "leak gap") for s in range(num_seeds)]
    torn = [
        _figures(context, hyperparameters, number, _ungrouped(grouped, seed), seed)
        for seed in seeds
    ]
    kept = [_figures(context, hyperparameters, number, grouped, seed) for seed in seeds]
    gaps = {
        key: [one[key] - other[key] for one, other in zip(torn, kept, strict=True)]
        for key in torn[0]
    }
    return LeakGap(
        trial=number,
        random=_means(torn),
        grouped=_means(kept),
        num_split_groups=int(np.sum(sizes > 1)),
        num_seeds=num_seeds,
        gap={key: float(np.mean(found)) for key, found in gaps.items()},
        gap_std={key: float(np.std(found, ddof=1)) for key, found in gaps.items()},
    )


def _ungrouped(data: DevelopmentSet, seed: int) -> DevelopmentSet:
    """Return the same images on folds that ignore groups."""
    alone = np.arange(len(data.labels))
    folds = make_folds(data.labels, alone, num_folds=len(data.folds), seed=seed)
    return replace(data, groups=alone, folds=folds)


def _figures(
    context: StudyContext,
    hyperparameters: Hyperparameters,
    trial: int,
    data: DevelopmentSet,
    seed: int,
) -> dict[str, float]:
    steps = cross_validate(
        data,
        hyperparameters,
        study_seed=seed,
        trial_number=trial,
        device=context.device,
        cache=context.home.cache,
    )
    return cv_metrics(list(fold_results(steps)))


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
