"""A version of a model with a hospital's own threshold or calibration, as a candidate."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.known_images import KnownImages, Membership
from busi_search.errors import BusiSearchError
from busi_search.files import without_nan
from busi_search.home import Home, open_home
from busi_search.models.export import register_version
from busi_search.models.external_evaluations import create_run_under_study, finish_run
from busi_search.models.judging import ask_module
from busi_search.models.loading import load_champion
from busi_search.models.naming import task_in_words
from busi_search.models.predict import Classifier
from busi_search.models.recalibrated import RecalibratedModel
from busi_search.models.registry import RegisteredVersion, add_tags, find_version, make_candidate
from busi_search.release.chosen_version import chosen_version
from busi_search.release.developed_on import PARENT, local_study
from busi_search.release.external import DEFAULT_SENSITIVITY
from busi_search.release.local_data import Recalibration
from busi_search.release.local_setting import (
    Setting,
    check_enough,
    cross_validated,
    fit_setting,
    setting_json,
)
from busi_search.release.other_data import OtherData, ask_model, load_other_images, read_other_data
from busi_search.release.positive_figures import PositiveFigures, positive_figures
from busi_search.release.registration import EXPORT_TOLERANCE, WEIGHTS_SHA256
from busi_search.search.mlflow.lookup import STUDY_ID
from busi_search.search.mlflow.study import NOT_INDEPENDENT
from busi_search.search.seal_ledger import SealLedger

ENTRY = "recalibration"
RECALIBRATION = "busi.recalibration"
# Tags that hold for a version as for its parent: who it is of, and what its ranking is worth.
_INHERITED = ("busi.study", "busi.trial", "busi.dataset", "busi.fingerprint", "busi.partition",
              "busi.simulated", "busi.code_version", NOT_INDEPENDENT, STUDY_ID)  # fmt: skip
_INHERITED_PREFIXES = ("busi.cv_", "busi.corrected_")


@dataclass(frozen=True)
class RecalibrationResult:
    """A version that was adapted to a hospital.

    Attributes:
        version: the new version, the candidate.
        parent: the version that it was made from.
        keep: what stayed: ``calibration``, ``threshold`` or ``nothing``.
        wanted_sensitivity: what the threshold was set to.
        before: threshold, intercept and slope of the parent.
        after: those of the new version.
        figures_before: of the parent on the local images.
        held_out: ``sensitivity``, ``specificity``, ``log_loss``, ``share_missed`` of the change
            on images that were left out, in repeated cross-validation by groups.
        data: the local images.
        opened: whose sealed images were among them, as a sentence, or None.
    """

    version: RegisteredVersion
    parent: RegisteredVersion
    keep: str
    wanted_sensitivity: float
    before: Setting
    after: Setting
    figures_before: PositiveFigures
    held_out: Mapping[str, float]
    data: OtherData
    opened: str | None

    def to_json(self) -> dict[str, Any]:
        """Return the result as ``busi-search recalibrate --json`` prints it."""
        version, parent = self.version, self.parent
        result: dict[str, Any] = without_nan(
            {
                "model": {**version.place, "alias": "candidate"},
                "parent": {"name": parent.name, "version": parent.version},
                "keep": self.keep,
                "wanted_sensitivity": self.wanted_sensitivity,
                "before": setting_json(self.before),
                "after": setting_json(self.after),
                "local_before": self.figures_before.to_json(),
                "held_out": dict(self.held_out),
                "data": self.data.to_json(),
                "left_out": self.data.left_out.to_json(),
                "opened": self.opened,
                "notes": list(self.data.notes),
            }
        )
        return result


def recalibrate_model(
    study: str,
    data: str,
    *,
    home: Home | str | None = None,
    keep: str = "calibration",
    sensitivity: float | None = None,
    version: str | None = None,
    model_uri: str | None = None,
    class_map: Sequence[str] = (),
    keep_sealed: bool = False,
) -> RecalibrationResult:
    """Register a version of a study's model with a threshold or calibration from local images.

    The network and its ranking stay. From then on the new version knows these images, and its
    evaluations leave them out.

    Args:
        study: whose model.
        data: images of the hospital, with labels; see :func:`.evaluate_elsewhere`.
        home: where the stores are (default ``./mlruns``).
        keep: ``calibration`` (set the threshold), ``threshold`` (set intercept and slope of the
            probability) or ``nothing`` (set both).
        sensitivity: target of the threshold (default: that of the operating point).
        version: of the model (default: what the study registered last).
        model_uri: the same as an address.
        class_map: see :func:`.evaluate_elsewhere`.
        keep_sealed: likewise.

    Raises:
        InputError: an argument cannot be used, or there are too few images.
        BusiSearchError: a ledger was changed, or the registry refuses.
    """
    place = home if isinstance(home, Home) else open_home(home)
    parent = chosen_version(place, study, version=version, model_uri=model_uri)
    classifier = load_champion(place, f"models:/{parent.name}/{parent.version}")
    ledger = SealLedger(place, study)
    ledger.check_version(parent.tags)
    other = read_other_data(
        place, data, classifier, parent, class_map=class_map, keep_sealed=keep_sealed
    )
    positive = classifier.class_names.index(classifier.positive_class)
    truth, groups = other.labels == positive, other.groups
    check_enough(truth, groups, classifier.positive_class, where=data)
    promised = classifier.operating_sensitivity
    wanted = sensitivity or (DEFAULT_SENSITIVITY if promised is None else promised)
    entry = {"version": parent.version, "data": other.to_json(), "keep": keep, "wanted": wanted}
    ledger.append(ENTRY, entry)
    probabilities, unlike, opened = ask_model(place, other, classifier, how="recalibrate")
    scores = probabilities[:, positive].astype(np.float64)
    before = Setting(Recalibration(), classifier.operating_threshold)
    after = fit_setting(scores, truth, before, keep=keep, wanted=wanted)
    held_out = cross_validated(scores, truth, groups, before, keep=keep, wanted=wanted)
    made = _register(place, classifier, parent, other, after, keep, wanted, held_out, probabilities)
    return RecalibrationResult(
        version=made,
        parent=parent,
        keep=keep,
        wanted_sensitivity=wanted,
        before=before,
        after=after,
        figures_before=positive_figures(
            scores, truth, groups, threshold=before.threshold, unlike=unlike
        ),
        held_out=held_out,
        data=other,
        opened=opened,
    )


def _register(
    home: Home,
    classifier: Classifier,
    parent: RegisteredVersion,
    other: OtherData,
    after: Setting,
    keep: str,
    wanted: float,
    held_out: Mapping[str, float],
    probabilities: npt.NDArray[np.float32],
) -> RegisteredVersion:
    """Export the model with its new setting, check it, and make it the candidate."""
    study = parent.tags["busi.study"]
    positive = classifier.class_names.index(classifier.positive_class)
    model = RecalibratedModel(classifier.module, positive=positive, **asdict(after.recalibration))
    written = {
        "keep": keep,
        "wanted_sensitivity": wanted,
        **setting_json(after),
        "parent_version": parent.version,
        "parent_threshold": classifier.operating_threshold,
        "data": other.to_json(),
        "held_out": dict(held_out),
    }
    run_id, experiment_id = create_run_under_study(
        home,
        parent,
        f"version {parent.version} set to {other.name}",
        {"busi.kind": "recalibration", "busi.study": study},
    )
    made = register_version(
        home,
        model,
        experiment_id=experiment_id,
        run_id=run_id,
        size_pixels=classifier.size_pixels,
        num_regions=classifier.geometry.num_regions,
        metadata={
            "busi_search": {
                **classifier.metadata,
                "operating_threshold": after.threshold,
                "operating_sensitivity": held_out["sensitivity"],
                "operating_specificity": held_out["specificity"],
                "recalibration": written,
            }
        },
        tags=_tags(parent, other, written),
        description=_describe(parent, other, written),
        name=parent.name,
        task=task_in_words(classifier.class_names, simulated=classifier.simulated),
    )
    KnownImages(home).add(
        Membership(
            study=local_study(study, made.version),
            partition=f"local-{made.name}-{made.version}",
            fingerprint=other.fingerprint,
            development=tuple(other.indices.tolist()),
            sealed=(),
        )
    )
    add_tags(
        home, made, {WEIGHTS_SHA256: _checked(home, made, after, probabilities, other, positive)}
    )
    finish_run(home, run_id)
    return make_candidate(home, find_version(home, made.version, name=made.name))


def _checked(
    home: Home,
    made: RegisteredVersion,
    after: Setting,
    probabilities: npt.NDArray[np.float32],
    other: OtherData,
    positive: int,
) -> str:
    """Load what was registered, compare its answers with those expected, and return its hash."""
    loaded = load_champion(home, f"models:/{made.name}/{made.version}")
    pixels = np.array(load_other_images(other.dataset, loaded, home)[:5])
    answers = ask_module(loaded.module, pixels)[:, positive]
    expected = after.recalibration.apply(probabilities[:5, positive])
    difference = float(np.abs(answers - expected).max())
    if difference > EXPORT_TOLERANCE:
        raise BusiSearchError(
            f"The exported model's probabilities differ by {difference:.2g} from those expected; "
            f"version {made.version} must not be used."
        )
    return loaded.weights_sha256


def _tags(
    parent: RegisteredVersion, other: OtherData, written: Mapping[str, Any]
) -> dict[str, str]:
    inherited = {
        key: value
        for key, value in parent.tags.items()
        if key in _INHERITED or key.startswith(_INHERITED_PREFIXES)
    }
    lineage = " ".join([parent.version, *parent.tags.get(PARENT, "").split()])
    return {
        **inherited,
        PARENT: lineage,
        "busi.local_data": other.name,
        "busi.local_fingerprint": other.fingerprint,
        RECALIBRATION: json.dumps(written),
    }


def _describe(parent: RegisteredVersion, other: OtherData, written: Mapping[str, Any]) -> str:
    held_out = written["held_out"]
    return (
        f"Version {parent.version} of study `{parent.tags['busi.study']}`, set to "
        f"{len(other.labels)} images of `{other.name}` ({other.grouping}); kept: "
        f"{written['keep']}. Threshold {written['parent_threshold']:.4f} before, "
        f"{written['threshold']:.4f} now; intercept {written['intercept']:.2f}, slope "
        f"{written['slope']:.2f} on the logit of the probability.\n\nOn images of the same set "
        f"that were left out: sensitivity {held_out['sensitivity']:.3f}, specificity "
        f"{held_out['specificity']:.3f}. For research use only."
    )
