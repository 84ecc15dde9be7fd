"""A frozen model on external images: another hospital, another machine, another time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.describe import open_dataset
from busi_search.errors import BusiSearchError, InputError
from busi_search.files import without_nan
from busi_search.home import Home, open_home
from busi_search.models.external_evaluations import log_external_evaluation
from busi_search.models.loading import load_champion
from busi_search.models.predict import Classifier
from busi_search.models.registry import RegisteredVersion
from busi_search.release.chosen_version import chosen_version
from busi_search.release.curves import Curves, drawn_curves
from busi_search.release.figures import TestFigures, compute_test_figures
from busi_search.release.local_data import LocalHelp, local_data_curve
from busi_search.release.other_data import OtherData, ask_model, read_other_data
from busi_search.release.positive_figures import (
    PositiveFigures,
    at_prevalences,
    net_benefit_rows,
    positive_figures,
)
from busi_search.release.subgroups import Subgroup, compute_subgroups, subgroup_levels
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord

# Wanted of a threshold where a model does not say what its own was to give.
DEFAULT_SENSITIVITY = 0.9
# Kinds of the ledger's entries: who looked, before the first answer, and what came of it.
ASKED, FIGURES = "external", "external_figures"


@dataclass(frozen=True)
class ExternalReport:
    """What one model scores on images from another hospital.

    Attributes:
        version: the model.
        data: the images.
        evaluations: how often models of this study were evaluated on this data, including now.
        opened: whose sealed images were among them, as a sentence, or None.
        test: every figure of a test report, of the positive class against all others.
        all_classes: the same over all classes of the model, if it has more than two and the data
            has all of them; otherwise None.
        figures: of the positive class at the frozen operating point.
        prevalences: predictive values at stated prevalences.
        net_benefit: of the model against treating all and treating none, over thresholds.
        subgroups: the figures by subgroup.
        wanted_sensitivity: target of a threshold set on local images.
        local_data: what a threshold or a calibration from local images would give.
        curves: what a page draws of the positive class.
    """

    version: RegisteredVersion
    data: OtherData
    evaluations: int
    opened: str | None
    test: TestFigures
    all_classes: TestFigures | None
    figures: PositiveFigures
    prevalences: Sequence[Mapping[str, Any]]
    net_benefit: Sequence[Mapping[str, Any]]
    subgroups: Sequence[Subgroup]
    wanted_sensitivity: float
    local_data: Sequence[LocalHelp]
    curves: Curves | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``busi-search evaluate --data --json`` prints it; no NaN."""
        result: dict[str, Any] = {
            "model": self.version.place,
            "data": self.data.to_json(),
            "left_out": self.data.left_out.to_json(),
            "evaluations": self.evaluations,
            "opened": self.opened,
            "external": {**self.test.to_json(), **self.figures.to_json()},
            "prevalences": list(self.prevalences),
            "net_benefit": list(self.net_benefit),
            "subgroups": [found.to_json() for found in self.subgroups],
            "wanted_sensitivity": self.wanted_sensitivity,
            "local_data": [row.to_json() for row in self.local_data],
            "notes": list(self.data.notes),
        }
        if self.curves is not None:
            result["curves"] = self.curves.to_json()
        if self.all_classes is not None:
            result["external_all_classes"] = self.all_classes.to_json()
        finite: dict[str, Any] = without_nan(result)
        return finite


def evaluate_elsewhere(
    study: str,
    data: str,
    *,
    home: Home | str | None = None,
    version: str | None = None,
    model_uri: str | None = None,
    class_map: Sequence[str] = (),
    prevalences: Sequence[float] = (),
    sensitivity: float | None = None,
    keep_sealed: bool = False,
) -> ExternalReport:
    """Evaluate a study's frozen model on images from another hospital.

    Model, temperature and operating point stay as they are. Images that the study developed on or
    sealed are left out, near-duplicates included. The evaluation is written into the study's ledger
    before the model predicts. Example::

        import busi_search as bs
        bs.evaluate_elsewhere("busbra", "Dataset_BUSI_with_GT", class_map=["normal=benign"])

    Args:
        study: whose model.
        data: a folder, table or .npz file, as ``run --data`` takes it.
        home: where the stores are (default ``./mlruns``).
        version: of the model (default: what the study registered last).
        model_uri: the same as an address, such as ``models:/busi-classifier@champion``.
        class_map: pieces such as ``normal or benign=benign``; see :func:`.parse_class_map`.
        prevalences: shares of patients with the disease at which predictive values are wanted.
        sensitivity: target of a threshold set on local images (default: that of the operating
            point); the operating point itself stays.
        keep_sealed: leave out images that other studies have sealed, instead of counting an
            opening.

    Raises:
        InputError: the model, the data or the mapping cannot be used, or too few images are left.
        BusiSearchError: a ledger was changed.
    """
    place = home if isinstance(home, Home) else open_home(home)
    for prevalence in prevalences:
        if not 0 < prevalence < 1:
            raise InputError(f"--prevalence {prevalence:g}: expected a share between 0 and 1.")
    chosen = chosen_version(place, study, version=version, model_uri=model_uri)
    classifier = load_champion(place, f"models:/{chosen.name}/{chosen.version}")
    ledger = SealLedger(place, study)
    ledger.check_version(chosen.tags)
    other = read_other_data(
        place, data, classifier, chosen, class_map=class_map, keep_sealed=keep_sealed
    )
    ledger.append(ASKED, _who(chosen, other))
    probabilities, unlike, opened = ask_model(place, other, classifier, how="evaluate")
    entries = ledger.entries()
    known = unlike if classifier.familiarity is not None else None
    report = _report(chosen, classifier, other, probabilities, known, prevalences, sensitivity)
    report = replace(
        report,
        evaluations=sum(
            e["kind"] == ASKED and e["data"]["fingerprint"] == other.fingerprint for e in entries
        ),
        opened=opened,
    )
    printed = report.to_json()
    ledger.append(FIGURES, _who(chosen, other) | _kept(printed))
    answers = zip(other.dataset.paths, probabilities, strict=True)
    log_external_evaluation(
        place,
        chosen,
        report=printed,
        predictions={path: [float(f"{p:.9g}") for p in row] for path, row in answers},
    )
    return report


def is_own_data(home: Home, study: str, data: str) -> bool:
    """Return whether images are those a study was searched on, wherever they lie now.

    What cannot be read is left to who reads it next, and says so.

    Raises:
        InputError: no such study.
    """
    identity = StudyRecord(find_study(home, study)).identity
    try:
        fingerprint = open_dataset(data, home.cache).fingerprint
    except BusiSearchError:
        return False
    return identity is not None and identity.change_of_images(fingerprint) is None


def _report(
    chosen: RegisteredVersion,
    classifier: Classifier,
    other: OtherData,
    probabilities: npt.NDArray[np.floating],
    unlike: npt.NDArray[np.bool_] | None,
    prevalences: Sequence[float],
    sensitivity: float | None,
) -> ExternalReport:
    names, positive = (
        classifier.class_names,
        classifier.class_names.index(classifier.positive_class),
    )
    threshold = classifier.operating_threshold
    rows = probabilities.astype(np.float64)
    scores, truth, groups = rows[:, positive], other.labels == positive, other.groups
    # A model of more classes answers for the positive one against all others.
    both = np.stack([1 - scores, scores], axis=1)
    test = compute_test_figures(
        both,
        truth.astype(np.int64),
        groups,
        class_names=(f"not {names[positive]}", names[positive]),
        positive=1,
        threshold=threshold,
    )
    everywhere = len(names) > 2 and np.bincount(other.labels, minlength=len(names)).min() > 1
    figures = positive_figures(
        scores, truth, groups, threshold=threshold, unlike=unlike, min_groups=2
    )
    promised = classifier.operating_sensitivity
    wanted = sensitivity or (DEFAULT_SENSITIVITY if promised is None else promised)
    levels = subgroup_levels(other.dataset)
    return ExternalReport(
        version=chosen,
        data=other,
        evaluations=0,
        opened=None,
        test=test,
        all_classes=compute_test_figures(
            rows, other.labels, groups, class_names=names, positive=positive, threshold=threshold
        )
        if everywhere
        else None,
        figures=figures,
        prevalences=at_prevalences(figures.figures, prevalences),
        net_benefit=net_benefit_rows(scores, truth, groups),
        subgroups=compute_subgroups(
            levels, scores, truth, groups, threshold=threshold, unlike=unlike
        ),
        wanted_sensitivity=wanted,
        local_data=local_data_curve(scores, truth, groups, threshold=threshold, wanted=wanted),
        curves=drawn_curves(
            scores,
            other.labels,
            groups,
            class_names=names,
            positive=positive,
            called=scores >= threshold,
        ),
    )


def _who(chosen: RegisteredVersion, other: OtherData) -> dict[str, Any]:
    out = other.left_out
    return {
        "version": chosen.version,
        "data": other.to_json(),
        "left_out": {
            "in_development": len(out.in_development),
            "in_own_test": len(out.in_own_test),
            "contradictory": len(out.contradictory),
            "sealed": len(out.sealed),
            "by_class": dict(out.by_class),
        },
    }


def _kept(printed: Mapping[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a report: all that the study's page shows."""
    figures = printed["external"]
    # The page draws a calibration curve of the own test only, which it knows by this name.
    dropped = ("reliability", "calibration_curve", "decision_curve", "per_class", "confusion")
    return {
        "figures": {key: value for key, value in figures.items() if key not in dropped},
        "net_benefit": printed["net_benefit"],
        "prevalences": printed["prevalences"],
        "subgroups": printed["subgroups"],
        "wanted_sensitivity": printed["wanted_sensitivity"],
        "local_data": printed["local_data"],
        "curves": printed["curves"],
    }
