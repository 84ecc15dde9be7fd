"""A winner's fold models, trained again from their seeds."""

import numpy as np

from busi_search.data.progress import counted
from busi_search.errors import BusiSearchError
from busi_search.models.ensemble import FoldEnsemble
from busi_search.release.winner import Winner
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import fold_results
from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.metrics import softmax

# On one kind of CPU a trial comes out the same to the last bit; elsewhere by rounding.
REBUILD_TOLERANCE = 0.05


def rebuild_ensemble(winner: Winner) -> tuple[FoldEnsemble, float]:
    """Train the fold models again and compare their predictions with the stored ones.

    Returns:
        The calibrated ensemble, on the CPU in evaluation mode, and the largest difference of a
        probability.

    Raises:
        BusiSearchError: on a CPU, they differ by more than ``REBUILD_TOLERANCE``.
    """
    train_on_one_core()
    context = winner.context
    steps = cross_validate(
        development_set(context, winner.hyperparameters),
        winner.hyperparameters,
        study_seed=context.spec.study.seed,
        trial_number=winner.number,
        device=context.device,
        cache=context.home.cache,
    )
    num_folds = len(context.partition.folds)
    results = list(counted(fold_results(steps), "training the winner again", num_folds))
    difference = max(
        float(np.abs(softmax(again.log_probabilities) - softmax(then.log_probabilities)).max())
        for again, then in zip(results, winner.folds, strict=True)
    )
    if difference > REBUILD_TOLERANCE and context.device == "cpu":
        raise BusiSearchError(
            f"Trial {winner.number} was trained again and its predictions differ by up to "
            f"{difference:.3f} from those that were scored; versions or hardware changed since. "
            "Begin a study with --name NEW."
        )
    models = [result.model.cpu().eval() for result in results if result.model is not None]
    return FoldEnsemble(models, winner.calibration.temperature).eval(), difference
