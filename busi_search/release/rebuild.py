"""A winner's fold models, trained again from their seeds."""

import numpy as np

from busi_search.data.progress import counted
from busi_search.errors import BusiSearchError
from busi_search.models.ensemble import FoldEnsemble, SelfLocatingEnsemble
from busi_search.release.winner import Winner
from busi_search.search.cross_validation import cross_validate, development_set
from busi_search.search.fold_result import fold_results
from busi_search.search.found_lesions import crop_of
from busi_search.search.prepare import device_of_worker
from busi_search.training.cpu_setup import train_on_one_core
from busi_search.training.determinism import train_deterministically
from busi_search.training.metrics import softmax

# On one kind of CPU, and with study.deterministic on one kind of GPU, a trial comes out the same to
# the last bit; elsewhere by rounding.
REBUILD_TOLERANCE = 0.05


def rebuild_ensemble(winner: Winner) -> tuple[FoldEnsemble | SelfLocatingEnsemble, float]:
    """Train the fold models again and compare their predictions with the stored ones.

    Returns:
        The calibrated ensemble, on the CPU in evaluation mode, and the largest difference of a
        probability.

    Raises:
        BusiSearchError: they differ by more than ``REBUILD_TOLERANCE``, on whatever device.
    """
    train_on_one_core()
    context = winner.context
    deterministic = context.spec.study.deterministic
    device = device_of_worker(context.device, 0)
    train_deterministically(device, wanted=deterministic)
    steps = cross_validate(
        development_set(context, winner.hyperparameters),
        winner.hyperparameters,
        study_seed=context.spec.study.seed,
        trial_number=winner.number,
        device=device,
        cache=context.home.cache,
    )
    num_folds = len(context.partition.folds)
    results = list(counted(fold_results(steps), "training the winner again", num_folds))
    difference = max(
        float(np.abs(softmax(again.log_probabilities) - softmax(then.log_probabilities)).max())
        for again, then in zip(results, winner.folds, strict=True)
    )
    if difference > REBUILD_TOLERANCE:
        raise BusiSearchError(_refusal(winner.number, difference, device, deterministic))
    models = [result.model.cpu().eval() for result in results if result.model is not None]
    ensemble = FoldEnsemble(models, winner.calibration.temperature).eval()
    geometry = context.geometry(winner.hyperparameters)
    if not geometry.finds_lesion:
        return ensemble, difference
    size_pixels = winner.hyperparameters.image_size_pixels
    finders = context.found_lesions.finders(geometry)
    crop = crop_of(finders, size_pixels=size_pixels, geometry=geometry)
    return SelfLocatingEnsemble(crop, ensemble).eval(), difference


def _refusal(number: int, difference: float, device: str, deterministic: bool) -> str:
    """Return why models are not registered that are not the scored ones, and what to do."""
    found = (
        f"Trial {number} was trained again on {device}, and its predictions differ by up to "
        f"{difference:.3f} from those that were scored (limit {REBUILD_TOLERANCE}), so nothing "
        "was registered."
    )
    if device != "cpu" and not deterministic:
        return (
            f"{found} A GPU repeats a training only with study.deterministic = true: begin a study "
            "without `deterministic = false`, with --name NEW."
        )
    return (
        f"{found} Versions or hardware changed since: run the command again on the kind of machine "
        "that trained the trial (see --device), or begin a study with --name NEW."
    )
