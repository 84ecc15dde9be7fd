"""A winner's models in the registry: exported, checked, and found again."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as package_version
from typing import Any

import numpy as np
import torch

from busi_search.errors import BusiSearchError
from busi_search.models.ensemble import FoldEnsemble, SelfLocatingEnsemble
from busi_search.models.export import register_version
from busi_search.models.judging import ask_module
from busi_search.models.loading import load_champion
from busi_search.models.naming import registered_name, task_in_words
from busi_search.models.out_of_distribution import fit_out_of_distribution_check
from busi_search.models.registry import (
    RegisteredVersion,
    add_tags,
    has_files,
    list_versions,
    make_candidate,
)
from busi_search.release.descriptions import describe_version
from busi_search.release.intervals import Figure
from busi_search.release.selection import Estimate
from busi_search.release.sites import UnseenSite, unseen_sites
from busi_search.release.winner import Winner
from busi_search.search.context import StudyContext
from busi_search.search.mlflow.descriptions import git_commit
from busi_search.search.mlflow.lookup import STUDY_ID, carries
from busi_search.search.mlflow.study import NOT_INDEPENDENT
from busi_search.search.store.open import find_study
from busi_search.search.store.study_parts import Released
from busi_search.search.store.study_record import StudyRecord
from busi_search.training.inputs import place_pixels

# Probabilities before and after export may differ by rounding only.
EXPORT_TOLERANCE = 1e-5
# Tags of a version; the hash is set after its export was checked.
REBUILT = "busi.rebuilt_difference"
PREDICTIONS = "busi.predictions"
WEIGHTS_SHA256 = "busi.weights_sha256"


@dataclass(frozen=True)
class Registered:
    """A version of the registry that holds a winner's models.

    Attributes:
        version: the registered model.
        rebuilt_difference: largest difference of a probability between the winner's stored
            out-of-fold predictions and those of the models that were registered.
        new: whether the study had not noted it before.
    """

    version: RegisteredVersion
    rebuilt_difference: float
    new: bool


@dataclass(frozen=True)
class Release:
    """The registered winner of a search.

    Attributes:
        trial: number of the winner.
        version: the registered model.
        estimates: its figures, corrected for the choice, by name of the metric.
        metric: the one it was chosen by.
        metrics: the winner's ``cv_`` figures.
        calibration: intercept, slope, observed/expected and error of its out-of-fold predictions,
            each fold's divided by the temperature of the others.
        temperature: of the registered model, fitted on all of them.
        params: its full configuration.
        rebuilt_difference: largest difference of a probability between the winner's stored
            out-of-fold predictions and those of the models that were registered.
        new: whether this call registered it, or found it registered.
        sites: what each site gave when it was left out; empty where folds are no sites.
    """

    trial: int
    version: RegisteredVersion
    estimates: Mapping[str, Estimate]
    metric: str
    metrics: Mapping[str, float]
    calibration: Mapping[str, Figure]
    temperature: float
    params: Mapping[str, Any]
    rebuilt_difference: float
    new: bool
    sites: tuple[UnseenSite, ...] = ()

    @property
    def estimate(self) -> Estimate:
        """The objective, corrected for the choice."""
        return self.estimates[self.metric]


def release_of(
    winner: Winner, registered: Registered, estimates: Mapping[str, Estimate]
) -> Release:
    """Put together what became of a search.

    Args:
        winner: the chosen trial.
        registered: its version.
        estimates: its figures, corrected for the choice: its own, or as noted earlier.
    """
    return Release(
        trial=winner.number,
        version=registered.version,
        estimates=estimates,
        metric=winner.context.spec.study.metric,
        metrics=winner.metrics,
        calibration=winner.calibration_figures,
        temperature=winner.calibration.temperature,
        params=winner.hyperparameters.model_dump(),
        rebuilt_difference=registered.rebuilt_difference,
        new=registered.new,
        sites=unseen_sites(winner),
    )


def is_of_study(version: RegisteredVersion, context: StudyContext) -> bool:
    """Return whether a version is this study's, and not another's of the same name."""
    study_id = StudyRecord(find_study(context.home, context.name)).id
    same_name = version.tags.get("busi.study") == context.name
    return same_name and carries(version.tags, study_id)


def noted_version(winner: Winner, noted: Released | None) -> Registered | None:
    """Return the version that a study noted, if the same trial won and the registry still has it.

    Args:
        winner: the chosen trial.
        noted: what the study kept of its latest release.
    """
    if noted is None or noted.trial != winner.number:
        return None
    for version in list_versions(winner.context.home):
        is_it = (version.name, version.version) == (noted.model, noted.version)
        is_it = is_it and is_of_study(version, winner.context)
        if is_it and has_files(winner.context.home, version):
            return Registered(version, noted.rebuilt_difference, new=False)
    return None


def checked_version(winner: Winner) -> Registered | None:
    """Find the checked version of a winner, for the case that it was registered but not noted."""
    wanted = {
        "busi.trial": str(winner.number),
        PREDICTIONS: winner.predictions_digest,
    }
    for version in list_versions(winner.context.home):
        checked = WEIGHTS_SHA256 in version.tags and REBUILT in version.tags
        mine = wanted.items() <= version.tags.items() and is_of_study(version, winner.context)
        if checked and mine and has_files(winner.context.home, version):
            candidate = make_candidate(winner.context.home, version)
            return Registered(candidate, float(candidate.tags[REBUILT]), new=True)
    return None


def register_winner(
    winner: Winner,
    ensemble: FoldEnsemble | SelfLocatingEnsemble,
    difference: float,
    *,
    experiment_id: str,
    run_id: str,
) -> Registered:
    """Export the models, register them, check what was registered, and make it the candidate.

    Args:
        winner: the chosen trial.
        ensemble: its fold models, trained again.
        difference: by how much their predictions differ from the stored ones at most.
        experiment_id: of the study in MLflow.
        run_id: likewise.

    Raises:
        BusiSearchError: the registry refuses, or the exported model answers otherwise.
    """
    context = winner.context
    size_pixels, geometry = context.model_input(winner.hyperparameters)
    classes, simulated = context.development.class_names, context.development.simulated
    version = register_version(
        context.home,
        ensemble,
        experiment_id=experiment_id,
        run_id=run_id,
        size_pixels=size_pixels,
        num_regions=geometry.num_regions,
        metadata={"busi_search": _metadata(winner)},
        tags=_tags(winner, difference),
        description=describe_version(winner),
        name=registered_name(classes, simulated=simulated, chosen=_chosen_name(context)),
        task=task_in_words(classes, simulated=simulated),
        step=winner.number,
    )
    provenance = {
        WEIGHTS_SHA256: _check_export(winner, ensemble, version),
        "busi.code_version": package_version("busi-search"),
    }
    add_tags(context.home, version, provenance | git_commit())
    return Registered(make_candidate(context.home, version), difference, new=True)


def _chosen_name(context: StudyContext) -> str | None:
    """Return the registered model that the study file names, or that the study has already."""
    noted = StudyRecord(find_study(context.home, context.name)).released
    return context.spec.study.model or (noted.model if noted else None)


def _metadata(winner: Winner) -> dict[str, Any]:
    """What a user of the model must know; stored inside it."""
    context = winner.context
    development, point = context.development, winner.calibration.operating_point
    sensitivity, specificity = winner.cross_fitted_point
    positive_class = development.class_names[development.positive]
    size_pixels, geometry = context.model_input(winner.hyperparameters)
    check = fit_out_of_distribution_check(context.images(size_pixels, geometry), context.groups)
    return {
        "class_names": list(development.class_names),
        "positive_class": positive_class,
        "image_size_pixels": size_pixels,
        "geometry": geometry.to_json(),
        "preprocessing": f"decode, grey by ITU-R BT.601 luminance, {geometry.describe()}, float32 "
        f"in [0, 255], shape (N, {geometry.num_regions}, S, S); images without a value above 1 are "
        "taken for shares of white and multiplied by 255; this, normalisation, softmax, the "
        "geometric mean over folds and the temperature are inside the model",
        "temperature": winner.calibration.temperature,
        "operating_threshold": point.threshold,
        "operating_rule": context.spec.operating_point.in_words(positive_class),
        # Each fold by the threshold of the others: what the rule does on images it was not
        # chosen on.
        "operating_sensitivity": sensitivity.value,
        "operating_specificity": specificity.value,
        "familiarity": check.to_json(),
        "simulated": development.simulated,
        "study": context.name,
        "trial": winner.number,
        "dataset_fingerprint": context.partition.fingerprint,
        # Said only where files have more than 8 bits.
        **({} if development.white_level is None else {"white_level": development.white_level}),
    }


def _tags(winner: Winner, difference: float) -> dict[str, str]:
    context, estimate = winner.context, winner.estimate
    objective = context.spec.study.objective
    return {
        "busi.study": context.name,
        STUDY_ID: StudyRecord(find_study(context.home, context.name)).make_id(),
        "busi.trial": str(winner.number),
        "busi.dataset": context.development.name,
        "busi.fingerprint": context.partition.fingerprint,
        "busi.partition": context.partition.digest(),
        "busi.simulated": str(context.development.simulated).lower(),
        NOT_INDEPENDENT: context.test_not_independent,
        f"busi.{objective}": f"{estimate.naive:.4f}",
        f"busi.corrected_{objective}": f"{estimate.value:.4f}",
        PREDICTIONS: winner.predictions_digest,
        REBUILT: f"{difference:.3g}",
    }


def _check_export(
    winner: Winner, ensemble: FoldEnsemble | SelfLocatingEnsemble, version: RegisteredVersion
) -> str:
    """Load what was registered, compare its answers with the models' own, and return its hash."""
    context = winner.context
    loaded = load_champion(context.home, f"models:/{version.name}/{version.version}")
    pixels = np.array(context.images(*context.model_input(winner.hyperparameters))[:5])
    inputs = place_pixels(pixels, "cpu").to(torch.float32)
    with torch.inference_mode():
        expected = ensemble(inputs).numpy()
    for count in (1, len(pixels)):
        answers = ask_module(loaded.module, pixels[:count])
        difference = float(np.abs(answers - expected[:count]).max())
        if difference > EXPORT_TOLERANCE:
            raise BusiSearchError(
                f"The exported model's probabilities differ by {difference:.2g} from the trained "
                f"model's; version {version.version} must not be used."
            )
    return loaded.weights_sha256
