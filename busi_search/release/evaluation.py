"""The sealed test: opened on request, counted, and reported with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.known_images import KnownImages
from busi_search.data.ledger import mendings
from busi_search.data.sealed import SealedTest, open_sealed_test
from busi_search.errors import BusiSearchError, InputError, TrackingAway
from busi_search.home import Home
from busi_search.models.evaluations import (
    find_recording_run,
    stored_predictions,
)
from busi_search.models.judging import ask_module
from busi_search.models.loading import load_champion
from busi_search.models.predict import Classifier
from busi_search.models.registry import RegisteredVersion, find_version
from busi_search.release.comparison import AgainstChampion, paired_difference, rivals
from busi_search.release.curves import drawn_curves
from busi_search.release.figures import TestFigures, compute_test_figures
from busi_search.release.kept_figures import held_by, keep_figures
from busi_search.release.positive_figures import positive_figures
from busi_search.release.registration import is_of_study
from busi_search.release.sealed_report import TestReport
from busi_search.release.subgroups import compute_subgroups, subgroup_levels
from busi_search.search.context import StudyContext
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.reopen import reopen_study
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.seal_register import num_openings_of
from busi_search.search.store.open import find_study
from busi_search.search.store.study_parts import Released
from busi_search.search.store.study_record import StudyRecord


def evaluate_sealed_test(
    home: Home,
    study_name: str,
    *,
    version: str | None = None,
    model: str | None = None,
    data: str | None = None,
) -> TestReport:
    """Open the sealed test for a study's model and report its figures.

    The temperature and the operating point were fixed on out-of-fold predictions and travel inside
    the model; nothing is chosen here. If the champion was made on the same division of the same
    data, both are compared on the same images; looking with the champion counts as an opening too.

    Args:
        home: where the stores are.
        study_name: whose test.
        version: of the model (default: what the study registered last).
        model: name of the registered model (default: the one that the study registered last).
        data: where its images are on this machine, if not where they were last found.

    Raises:
        InputError: the study has no model, its data is gone or changed, or MLflow has no run to
            keep the figures with; the test was not opened.
        BusiSearchError: the ledger was changed; or MLflow did not take the figures, which the
            ledger then holds, and the sentence says.
    """
    study = find_study(home, study_name)
    released = StudyRecord(study).released
    chosen = _chosen(home, study_name, released, version=version, model=model)
    context = reopen_study(study, home=home, data=data)
    if chosen.tags.get("busi.partition") != context.partition.digest():
        raise InputError(
            f"Version {chosen.version} was made on another division of the data than study "
            f"'{study_name}'; its test images may have been trained on."
        )
    classifier = load_champion(home, f"models:/{chosen.name}/{chosen.version}")
    ledger = SealLedger(home, study_name)
    if is_of_study(chosen, context):
        ledger.check_version(chosen.tags)
    elif released is not None and released.version == chosen.version:
        raise InputError(
            f"Version {chosen.version} of '{chosen.name}' in this MLflow is another study's; "
            f"'{study_name}' registered its own elsewhere: use that --tracking-uri, or name a "
            "--version."
        )
    # All that may fail without the test comes before it is opened.
    tracked = StudyRecord(study).tracked
    try:
        run_id = find_recording_run(home, chosen, None if tracked is None else tracked.run_id)
    except BusiSearchError as error:
        raise type(error)(f"{error} The sealed test was not opened. {held_by(ledger)}") from error
    others = [_ready(home, context, ledger, rival) for rival in rivals(home, chosen)]
    known = KnownImages(home)
    developed = known.developed_elsewhere(context.membership)
    test = _open(home, context, ledger, classifier, chosen)
    # The opening is in the ledger already.
    probabilities = ask_module(classifier.module, test.images)

    def figures(keep: npt.NDArray[np.bool_]) -> TestFigures:
        return compute_test_figures(
            probabilities[keep],
            test.labels[keep],
            test.groups[keep],
            class_names=classifier.class_names,
            positive=context.development.positive,
            threshold=classifier.operating_threshold,
        )

    everyone = np.ones(len(test.labels), dtype=bool)
    against = [_against(home, context, ledger, rival, test, probabilities) for rival in others]
    without = figures(~test.has_twin) if test.has_twin.any() else None
    independent = ~np.isin(context.partition.test, list(developed))
    judged = (
        bool(developed)
        and np.bincount(test.labels[independent], minlength=len(classifier.class_names)).min() > 1
    )
    report = TestReport(
        version=chosen,
        openings=num_openings_of(known, context.membership, home),
        figures=figures(everyone),
        figures_without_twins=without,
        num_not_independent=len(developed),
        developed_by=tuple(sorted({study for studies in developed.values() for study in studies})),
        figures_independent=figures(independent) if judged else None,
        against_champion=against[-1] if against else None,
        against_best_champion=against[0] if len(against) > 1 else None,
        ledger_mended=tuple(mendings(ledger.entries())),
        **_of_positive(test, probabilities, classifier, context.development.positive),
    )
    try:
        with tracking_errors(home):
            keep_figures(home, context, ledger, report, probabilities, test.paths, run_id)
    except TrackingAway as error:
        raise BusiSearchError(f"{error}. The sealed test was opened. {held_by(ledger)}") from error
    return report


def _chosen(
    home: Home,
    study_name: str,
    released: Released | None,
    *,
    version: str | None,
    model: str | None,
) -> RegisteredVersion:
    """Return the version that is meant: by default the one that the study registered last."""
    if version is None:
        if released is None:
            raise InputError(f"Study '{study_name}' has registered no model yet; finish it first.")
        version = released.version
    if model is None and released is not None:
        model = released.model
    return find_version(home, version, name=model)


def _open(
    home: Home,
    context: StudyContext,
    ledger: SealLedger,
    classifier: Classifier,
    version: RegisteredVersion,
) -> SealedTest:
    """Open the sealed test as a model sees it; the opening stands in the ledger before that."""
    return open_sealed_test(
        context.spec.dataset,
        context.partition,
        size_pixels=classifier.size_pixels,
        geometry=classifier.geometry,
        cache=home.cache,
        ledger=ledger,
        reason={"study": context.name, "model": version.name, "version": version.version},
    )


@dataclass(frozen=True)
class _Rival:
    """A champion that a version is compared with.

    Attributes:
        version: the champion.
        cannot: why the two cannot be compared, or None.
        kept: its answers by image name, as kept when it was evaluated; None: it must be asked.
        classifier: the champion itself, loaded, where it must be asked.
    """

    version: RegisteredVersion
    cannot: str | None = None
    kept: Mapping[str, Sequence[float]] | None = None
    classifier: Classifier | None = None


def _ready(
    home: Home, context: StudyContext, ledger: SealLedger, rival: RegisteredVersion
) -> _Rival:
    """Fetch what a comparison with another version needs, before the test is opened."""
    if rival.tags.get("busi.partition") != context.partition.digest():
        return _Rival(
            rival,
            cannot="the champion was made on another division or other data; it may have been "
            "trained on these test images",
        )
    if rival.tags.get("busi.study") == context.name and is_of_study(rival, context):
        ledger.check_version(rival.tags)
    kept = stored_predictions(home, rival)
    if kept is not None and len(kept) == len(context.partition.test):
        return _Rival(rival, kept=kept)
    try:
        asked = load_champion(home, f"models:/{rival.name}/{rival.version}")
    except BusiSearchError as error:
        return _Rival(rival, cannot=f"its answers were not kept, and {error}")
    return _Rival(rival, kept=kept, classifier=asked)


def _of_positive(
    test: SealedTest,
    probabilities: npt.NDArray[np.float32],
    classifier: Classifier,
    positive: int,
) -> dict[str, Any]:
    """Return the figures of the positive class and its subgroups, by attribute of the report."""
    check, unlike = classifier.familiarity, None
    if check is not None:
        unlike = check.distance(test.images) > check.limit
    scores, truth = probabilities[:, positive], test.labels == positive
    threshold, levels = classifier.operating_threshold, subgroup_levels(test.dataset)
    curves = drawn_curves(
        scores,
        test.labels,
        test.groups,
        class_names=classifier.class_names,
        positive=positive,
        called=scores >= threshold,
    )
    return {
        "curves": curves,
        "of_positive": positive_figures(
            scores, truth, test.groups, threshold=threshold, unlike=unlike, min_groups=2
        ),
        "subgroups": tuple(
            compute_subgroups(
                levels, scores, truth, test.groups, threshold=threshold, unlike=unlike
            )
        ),
    }


def _against(
    home: Home,
    context: StudyContext,
    ledger: SealLedger,
    rival: _Rival,
    test: SealedTest,
    probabilities: npt.NDArray[np.float32],
) -> AgainstChampion:
    """Compare with another version, if it never saw these test images either."""
    if rival.cannot is not None:
        return AgainstChampion(rival.version.version, rival.cannot)
    answers = _answers_of(home, context, ledger, rival, test.paths)
    if answers is None:
        return AgainstChampion(rival.version.version, "it answered other test images")
    difference = paired_difference(
        probabilities, answers, test.labels, test.groups, positive=context.development.positive
    )
    return AgainstChampion(rival.version.version, difference)


def _answers_of(
    home: Home, context: StudyContext, ledger: SealLedger, rival: _Rival, paths: tuple[str, ...]
) -> npt.NDArray[np.floating] | None:
    """Return (N, C) probabilities: as kept when a version was evaluated, or asked for now."""
    if rival.kept is not None and rival.kept.keys() == set(paths):
        return np.array([rival.kept[path] for path in paths])
    other, version = rival.classifier, rival.version
    if other is None:
        return None
    test = _open(home, context, ledger, other, version)
    return ask_module(other.module, test.images)
