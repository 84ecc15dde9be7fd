"""What pruned trials might have predicted: they took part in the choice and in its luck.

A race keeps the trials that were lucky in their first folds. A correction among the survivors alone
does not see that luck: after a race that stops most trials after one fold, it is up to 0.009 too
high (docs/explanation/honest-numbers.md).
"""

import numpy as np
import numpy.typing as npt

from busi_search.training.weighted_metrics import weighted_metric

NUM_LENDERS = 5

Array = npt.NDArray[np.float64]


def fill_pruned(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    folds: npt.NDArray[np.integer],
    *,
    metric: str,
    positive: int,
    rng: np.random.Generator,
) -> npt.NDArray[np.floating]:
    """Lend every pruned trial, for the folds it never saw, the predictions of one that went on.

    The lender is drawn among the five fully evaluated trials whose mean scores on the folds that
    the pruned one did finish are nearest to its own (predictive mean matching; Little 1988): a bad
    trial gets a bad one's predictions and stays bad, a trial given up narrowly gets those of one
    that was kept narrowly.

    Args:
        probabilities: (T, N, C), NaN where a trial has no prediction; at least one trial has all.
        labels: (N,) integers.
        folds: (N,) fold of each image.
        metric: by which the trials are compared.
        positive: for C = 2, the class that binary figures are about.
        rng: draws the lenders.

    Returns:
        (T, N, C) without NaN; the same array where nothing is missing.
    """
    seen = np.isfinite(probabilities[:, :, 0])
    complete = np.flatnonzero(seen.all(axis=1))
    if len(complete) == len(probabilities):
        return probabilities
    names = np.unique(folds)
    rows = (folds == names[:, None]).astype(np.float64)

    def fold_scores(trial: int) -> Array:
        known = np.nan_to_num(probabilities[trial].astype(np.float64))
        scores = weighted_metric(metric, known, labels, rows, positive=positive)
        finished: npt.NDArray[np.bool_] = (rows * seen[trial]).sum(axis=1) == rows.sum(axis=1)
        return np.where(finished, scores, np.nan)

    kept = np.stack([fold_scores(int(trial)) for trial in complete])
    filled = probabilities.copy()
    for trial in np.flatnonzero(~seen.all(axis=1)):
        own = fold_scores(int(trial))
        finished = np.isfinite(own)
        gaps = np.abs(kept[:, finished].mean(axis=1) - own[finished].mean())
        nearest = np.argsort(np.nan_to_num(gaps, nan=np.inf), kind="stable")[:NUM_LENDERS]
        lender = complete[rng.choice(nearest)]
        missing = ~seen[trial]
        filled[trial, missing] = probabilities[lender, missing]
    return filled
