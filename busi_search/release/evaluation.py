"""The sealed test: opened on request, counted, and reported with intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from busi_search.data.known_images import KnownImages
from busi_search.data.ledger import mendings, num_openings
from busi_search.data.sealed import SealedTest, open_sealed_test
from busi_search.errors import BusiSearchError, InputError, TrackingAway
from busi_search.home import Home
from busi_search.models.evaluations import (
    find_recording_run,
    log_evaluation,
    stored_predictions,
)
from busi_search.models.judging import ask_module
from busi_search.models.predict import Classifier, load_champion
from busi_search.models.registry import RegisteredVersion, find_version
from busi_search.release.calibration_figures import CALIBRATION_FIGURES
from busi_search.release.comparison import AgainstChampion, paired_difference, rivals
from busi_search.release.curves import drawn_curves
from busi_search.release.figures import TestFigures, compute_test_figures
from busi_search.release.positive_figures import positive_figures
from busi_search.release.registration import is_of_study
from busi_search.release.sealed_report import TestReport
from busi_search.release.subgroups import compute_subgroups, subgroup_levels
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.mlflow.lookup import carries
from busi_search.search.mlflow.retry import tracking_errors
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.seal_register import num_openings_of
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord
from busi_search.wording import count_of

if TYPE_CHECKING:
    import optuna


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
    if version is None:
        if released is None:
            raise InputError(f"Study '{study_name}' has registered no model yet; finish it first.")
        version = released.version
    if model is None and released is not None:
        model = released.model
    chosen = find_version(home, version, name=model)
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
        raise type(error)(f"{error} The sealed test was not opened. {_held(ledger)}") from error
    others = [_ready(home, context, ledger, rival) for rival in rivals(home, chosen)]
    known = KnownImages(home)
    developed = known.developed_elsewhere(context.membership)
    reason = {"study": study_name, "model": chosen.name, "version": chosen.version}
    test = open_sealed_test(
        context.spec.dataset,
        context.partition,
        size_pixels=classifier.size_pixels,
        geometry=classifier.geometry,
        cache=home.cache,
        ledger=ledger,
        reason=reason,
    )
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
            _record(home, context, ledger, report, probabilities, test.paths, run_id)
    except TrackingAway as error:
        raise BusiSearchError(f"{error}. The sealed test was opened. {_held(ledger)}") from error
    return report


def _held(ledger: SealLedger) -> str:
    """Return what a ledger holds: the number of openings, and the latest figures."""
    entries = ledger.entries()
    text = f"Its ledger holds {count_of(num_openings(entries), 'opening')}"
    figures = [entry for entry in entries if entry["kind"] == "figures"]
    if not figures:
        return f"{text} and no figures."
    latest = figures[-1]
    low, high = latest["auc_ci95"]
    return (
        f"{text}, and of version {latest['version']}: AUC {latest['auc']:.3f} (95 % interval "
        f"{low:.3f} to {high:.3f}), sensitivity {latest['sensitivity']:.3f}, specificity "
        f"{latest['specificity']:.3f}, {latest['num_images']} images."
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
    test = open_sealed_test(
        context.spec.dataset,
        context.partition,
        size_pixels=other.size_pixels,
        geometry=other.geometry,
        cache=home.cache,
        ledger=ledger,
        reason={"study": context.name, "model": version.name, "version": version.version},
    )
    return ask_module(other.module, test.images)


def _record(
    home: Home,
    context: StudyContext,
    ledger: SealLedger,
    report: TestReport,
    probabilities: npt.NDArray[np.float32],
    paths: tuple[str, ...],
    run_id: str,
) -> None:
    """Write the figures into the ledger, the model version's tags and the study run."""
    printed = report.figures.to_json()
    names = ("num_images", "num_groups", "auc", "auc_ci95", "accuracy")
    at_the_point = ("sensitivity", "sensitivity_ci95", "specificity", "specificity_ci95")
    calibration = [key for n in CALIBRATION_FIGURES for key in (n, f"{n}_ci95")]
    kept = (*names, *at_the_point, *calibration, "calibration_curve")
    short = {name: printed[name] for name in kept}
    who = {"version": report.version.version, "partition": context.partition.digest()}
    full = report.to_json()
    # What other hospitals and subgroups are compared by.
    shown = ("of_positive", "subgroups", "curves")
    own: dict[str, Any] = {name: full[name] for name in shown if name in full}
    ledger.append("figures", {**who, **short, **own})
    log_evaluation(
        home,
        report.version,
        report=report.to_json(),
        run_id=run_id,
        ledger=ledger.entries(),
        predictions={
            # Nine digits are all that a float32 has: the order of the images is kept exactly.
            path: [float(f"{p:.9g}") for p in row]
            for path, row in zip(paths, probabilities, strict=True)
        },
    )


def check_ledger_of(home: Home, version: RegisteredVersion) -> None:
    """Make sure that the ledger of a version's study still holds what it held at its evaluation.

    Raises:
        BusiSearchError: entries were changed or removed.
    """
    study = study_of_version(home, version)
    if study is not None:  # Else made on another home, whose ledger is not here.
        SealLedger(home, study.study_name).check_version(version.tags)


def study_of_version(home: Home, version: RegisteredVersion) -> "optuna.Study | None":
    """Return the study that made a version; None if it is not on this home, or only its name is."""
    try:
        study = find_study(home, version.tags.get("busi.study", ""))
    except InputError:
        return None
    return study if carries(version.tags, StudyRecord(study).id) else None
