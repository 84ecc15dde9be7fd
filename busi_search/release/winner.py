"""From a finished search to a registered candidate."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
import optuna
import torch
from optuna.trial import FrozenTrial

from busi_search.data.image_cache import load_images
from busi_search.data.ledger import FILE_NAME, read_ledger
from busi_search.errors import BusiSearchError
from busi_search.models.out_of_distribution import fit_out_of_distribution_check
from busi_search.models.predict import load_champion
from busi_search.models.registry import (
    FoldEnsemble,
    RegisteredVersion,
    add_tags,
    find_version,
    list_versions,
    make_candidate,
    register_version,
)
from busi_search.release.rebuild import (
    calibrate,
    estimate_scores,
    predictions_digest,
    rebuild_ensemble,
)
from busi_search.release.selection import (
    Estimate,
    pareto_front,
    select_trial,
)
from busi_search.report.descriptions import (
    corrected_figures,
    describe_study,
    describe_version,
)
from busi_search.report.grad_cam import explain_images
from busi_search.report.model_card import Card, card_markdown, make_model_card
from busi_search.report.study_page import render_report
from busi_search.search.context import StudyContext
from busi_search.search.mlflow.tracking import Tracker, git_commit
from busi_search.search.store.open import open_storage
from busi_search.search.store.records import (
    cv_metrics,
    num_finished,
    stored_folds,
    trial_hyperparameters,
)
from busi_search.search.store.study_record import Released, StudyRecord

# Probabilities before and after export may differ by rounding only.
EXPORT_TOLERANCE = 1e-5
# Tags of a version; the hash is set after its export was checked.
REBUILT = "busi.rebuilt_difference"
PREDICTIONS = "busi.predictions"
WEIGHTS_SHA256 = "busi.weights_sha256"


@dataclass(frozen=True)
class Release:
    """What became of a search.

    Attributes:
        trial: number of the winner.
        version: the registered model.
        estimates: its figures, corrected for the choice, by name of the metric.
        metric: the one it was chosen by.
        metrics: the winner's ``cv_`` figures.
        params: its full configuration.
        rebuilt_difference: largest difference of a probability between the winner's stored
            out-of-fold predictions and those of the models that were registered.
        new: whether this call registered it, or found it registered.
    """

    trial: int
    version: RegisteredVersion
    estimates: dict[str, Estimate]
    metric: str
    metrics: dict[str, float]
    params: dict[str, Any]
    rebuilt_difference: float
    new: bool

    @property
    def estimate(self) -> Estimate:
        """The objective, corrected for the choice."""
        return self.estimates[self.metric]


def release_winner(context: StudyContext, tracker: Tracker) -> Release:
    """Choose the best fully evaluated trial, rebuild its models, register their average.

    The fold models are trained again from their seeds rather than kept for every trial, and their
    out-of-fold predictions are compared with the stored ones: what is registered is what was
    scored. If the winner is registered already, nothing is changed.

    Args:
        context: a study with at least one complete trial.
        tracker: started.

    Raises:
        BusiSearchError: no trial is complete, or the rebuilt models differ from the scored ones.
    """
    storage = open_storage(context.home)
    study = optuna.load_study(study_name=context.name, storage=storage)
    trials = study.get_trials(deepcopy=False)
    best = select_trial(trials, context.spec.study)
    if best is None:
        raise BusiSearchError(
            f"Study '{context.name}' has no fully evaluated trial to release; search on."
        )
    record, finished = StudyRecord(study), num_finished(trials)
    released = _still_registered(context, record.released)
    same = released is not None and released.trial == best.number
    if released is not None and same and released.finished == finished:
        tracker.mark("complete")
        return _stored_release(context, best, released)
    tracker.mark("releasing")
    estimates = estimate_scores(context, trials)
    if released is not None and same:
        version = find_version(context.home, released.version)
        difference, new = released.rebuilt_difference, False
    elif (registered := _registered(context, best)) is not None:
        version = make_candidate(context.home, registered)
        difference, new = float(version.tags[REBUILT]), True
    else:
        version, difference = _rebuild_and_register(context, study, best, estimates, tracker)
        new = True
    _log_release(context, tracker, trials, best, estimates, version, record)
    record.set_released(
        Released(
            finished=finished,
            trial=best.number,
            version=version.version,
            estimates={metric: asdict(estimate) for metric, estimate in estimates.items()},
            rebuilt_difference=difference,
        )
    )
    tracker.mark("complete")
    return _release(context, best, version, estimates, difference, new=new)


def _still_registered(context: StudyContext, released: Released | None) -> Released | None:
    """Return what a study noted of its release, or nothing where the registry lost it."""
    if released is None:
        return None
    for version in list_versions(context.home):
        mine = version.tags.get("busi.study") == context.name
        if mine and version.version == released.version:
            return released
    return None


def _registered(context: StudyContext, best: FrozenTrial) -> RegisteredVersion | None:
    """Find the checked version of a winner, also if the process ended before it was noted."""
    wanted = {
        "busi.study": context.name,
        "busi.trial": str(best.number),
        PREDICTIONS: predictions_digest(context, best),
    }
    for version in list_versions(context.home):
        checked = WEIGHTS_SHA256 in version.tags and REBUILT in version.tags
        if checked and wanted.items() <= version.tags.items():
            return version
    return None


def _stored_release(context: StudyContext, best: FrozenTrial, released: Released) -> Release:
    version = find_version(context.home, released.version)
    estimates = {metric: Estimate(**found) for metric, found in released.estimates.items()}
    difference = released.rebuilt_difference
    return _release(context, best, version, estimates, difference, new=False)


def _release(
    context: StudyContext,
    best: FrozenTrial,
    version: RegisteredVersion,
    estimates: dict[str, Estimate],
    difference: float,
    *,
    new: bool,
) -> Release:
    folds = stored_folds(best, len(context.partition.folds))
    return Release(
        trial=best.number,
        version=version,
        estimates=estimates,
        metric=context.spec.study.metric,
        metrics=cv_metrics([folds[index] for index in sorted(folds)]),
        params=trial_hyperparameters(best).model_dump(),
        rebuilt_difference=difference,
        new=new,
    )


def _rebuild_and_register(
    context: StudyContext,
    study: optuna.Study,
    best: FrozenTrial,
    estimates: dict[str, Estimate],
    tracker: Tracker,
) -> tuple[RegisteredVersion, float]:
    model, difference = rebuild_ensemble(context, best)
    explanations = explain_images(context, best, model.fold_models)
    StudyRecord(study).set_explanations(explanations)
    estimate = estimates[context.spec.study.metric]
    calibration = calibrate(context, best)
    hyperparameters = trial_hyperparameters(best)
    development = context.development
    metadata = {
        "busi_search": {
            "class_names": list(development.class_names),
            "positive_class": development.class_names[development.positive],
            "image_size_pixels": hyperparameters.image_size_pixels,
            "preprocessing": "decode, grey by ITU-R BT.601 luminance, resize to a square with an "
            "antialiased bilinear filter, float32 in [0, 255], shape (N, 1, S, S); normalisation, "
            "softmax, the average over folds and the temperature are inside the model",
            "temperature": calibration.temperature,
            "operating_threshold": calibration.operating_point.threshold,
            "operating_sensitivity": calibration.operating_point.sensitivity,
            "operating_specificity": calibration.operating_point.specificity,
            "familiarity": fit_out_of_distribution_check(
                context.images(hyperparameters.image_size_pixels)
            ).to_json(),
            "simulated": development.simulated,
            "study": context.name,
            "trial": best.number,
            "dataset_fingerprint": context.partition.fingerprint,
        }
    }
    tags = {
        "busi.study": context.name,
        "busi.trial": str(best.number),
        "busi.dataset": development.name,
        "busi.fingerprint": context.partition.fingerprint,
        "busi.partition": context.partition.digest(),
        "busi.simulated": str(development.simulated).lower(),
        f"busi.{context.spec.study.objective}": f"{estimate.naive:.4f}",
        f"busi.corrected_{context.spec.study.objective}": f"{estimate.value:.4f}",
        PREDICTIONS: predictions_digest(context, best),
        REBUILT: f"{difference:.3g}",
    }
    version = register_version(
        context.home,
        model,
        experiment_id=tracker.experiment_id,
        run_id=tracker.run_id,
        size_pixels=hyperparameters.image_size_pixels,
        num_classes=len(development.class_names),
        metadata=metadata,
        tags=tags,
        description=describe_version(context, best, estimate),
    )
    weights = _check_export(context, model, version, hyperparameters.image_size_pixels)
    provenance = {
        WEIGHTS_SHA256: weights,
        "busi.code_version": package_version("busi-search"),
    }
    add_tags(context.home, version, provenance | git_commit())
    return make_candidate(context.home, version), difference


def _check_export(
    context: StudyContext, model: FoldEnsemble, version: RegisteredVersion, size_pixels: int
) -> str:
    """Load what was registered, compare its answers with the model's own, and return its hash."""
    loaded = load_champion(context.home, f"models:/{version.name}/{version.version}")
    pixels = np.array(load_images(context.development, size_pixels, context.home.cache)[:5])
    inputs = torch.from_numpy(pixels).unsqueeze(1).to(torch.float32)
    with torch.inference_mode():
        expected = model(inputs).numpy()
    for count in (1, len(pixels)):
        difference = float(np.abs(loaded.predict_pixels(pixels[:count]) - expected[:count]).max())
        if difference > EXPORT_TOLERANCE:
            raise BusiSearchError(
                f"The exported model's probabilities differ by {difference:.2g} from the trained "
                f"model's; version {version.version} must not be used."
            )
    return loaded.weights_sha256


def _log_release(
    context: StudyContext,
    tracker: Tracker,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    estimates: dict[str, Estimate],
    version: RegisteredVersion,
    record: StudyRecord,
) -> None:
    estimate = estimates[context.spec.study.metric]
    folds = stored_folds(best, len(context.partition.folds))
    results = [folds[index] for index in sorted(folds)]
    figures = {
        **{key: value for key, value in cv_metrics(results).items() if np.isfinite(value)},
        **corrected_figures(estimates),
    }
    tags = {
        "busi.best_trial": str(best.number),
        "busi.model_version": version.version,
        "mlflow.note.content": describe_study(context, best, estimate, version),
    }
    tracker.log_result(figures, tags)
    if context.spec.study.further_objectives:
        front = {trial.number for trial in pareto_front(trials, context.spec.study)}
        tracker.tag_trials(front, "busi.pareto")
    started = time.perf_counter()
    card = model_card(context, trials, best, estimates)
    tracker.log_texts(
        {
            "report.html": render_report(
                context, trials, best, estimates, calibrate(context, best), card, record
            ),
            "model_card.md": card_markdown(context.name, card),
            "best_hyperparameters.json": json.dumps(
                trial_hyperparameters(best).model_dump(), indent=2
            ),
        }
    )
    tracker.seconds += time.perf_counter() - started


def model_card(
    context: StudyContext,
    trials: Sequence[FrozenTrial],
    best: FrozenTrial,
    estimates: dict[str, Estimate],
) -> Card:
    """Return the model card of a study's winner, openings of the sealed test included."""
    ledger = read_ledger(context.home.study_folder(context.name) / FILE_NAME)
    return make_model_card(context, trials, best, estimates, calibrate(context, best), ledger)
