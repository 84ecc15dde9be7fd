"""The sealed test: opened on request, counted, and reported with intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.known_images import KnownImages
from busi_search.data.ledger import mendings
from busi_search.data.sealed import SealedTest, open_sealed_test
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.evaluations import log_evaluation, stored_predictions
from busi_search.models.predict import Classifier, ask_module, load_champion
from busi_search.models.registry import RegisteredVersion, find_version
from busi_search.release.calibration_figures import CALIBRATION_FIGURES
from busi_search.release.comparison import AgainstChampion, paired_difference, rivals
from busi_search.release.figures import TestFigures, compute_test_figures
from busi_search.release.positive_figures import PositiveFigures, positive_figures
from busi_search.release.subgroups import Subgroup, compute_subgroups, subgroup_levels
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.seal_register import num_openings_of
from busi_search.search.store.open import find_study
from busi_search.search.store.study_record import StudyRecord


@dataclass(frozen=True)
class TestReport:
    """What one model scored on the sealed test.

    Attributes:
        version: the model.
        openings: how often images of this test were opened so far, this time included, by
            whichever study or model of the home.
        figures: of all test images.
        figures_without_twins: of the images without a near-duplicate, or another image of their
            known group, in the development part; None where all are without.
        num_not_independent: test images that other studies of the home developed on.
        developed_by: names of these studies.
        figures_independent: of the other test images; None where all are independent, or where the
            others lack a class.
        against_champion: paired comparison with the champion on the same images, or None.
        against_best_champion: the same with the best champion so far, where that is another one.
        ledger_mended: what was wrong with the ledger's stores and was mended, with its time.
        of_positive: figures of the positive class at the operating point, as elsewhere.
        subgroups: the same by site, device, BI-RADS, age and lesion size.
    """

    # Not a test, whatever its name begins with.
    __test__ = False

    version: RegisteredVersion
    openings: int
    figures: TestFigures
    figures_without_twins: TestFigures | None
    num_not_independent: int
    developed_by: tuple[str, ...]
    figures_independent: TestFigures | None
    against_champion: AgainstChampion | None
    against_best_champion: AgainstChampion | None = None
    ledger_mended: tuple[str, ...] = ()
    of_positive: PositiveFigures | None = None
    subgroups: tuple[Subgroup, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``busi-search evaluate --json`` prints it."""
        result: dict[str, Any] = {
            "model": {
                "name": self.version.name,
                "version": self.version.version,
                "run_id": self.version.run_id,
            },
            "openings": self.openings,
            "num_test_not_independent": self.num_not_independent,
            "developed_by": list(self.developed_by),
            "test": self.figures.to_json(),
        }
        if self.figures_without_twins is not None:
            result["test_without_twins"] = self.figures_without_twins.to_json()
        if self.num_not_independent:
            independent = self.figures_independent
            result["test_independent"] = None if independent is None else independent.to_json()
        if self.against_champion is not None:
            result["against_champion"] = self.against_champion.to_json()
        if self.against_best_champion is not None:
            result["against_best_champion"] = self.against_best_champion.to_json()
        if self.ledger_mended:
            result["ledger_mended"] = list(self.ledger_mended)
        if self.of_positive is not None:
            result["of_positive"] = self.of_positive.to_json()
        if self.subgroups:
            result["subgroups"] = [found.to_json() for found in self.subgroups]
        return result


def evaluate_sealed_test(home: Home, study_name: str, *, version: str | None = None) -> TestReport:
    """Open the sealed test for a study's model and say what it scores.

    The temperature and the operating point were fixed on out-of-fold predictions and travel inside
    the model; nothing is chosen here. If the champion was made on the same division of the same
    data, both are compared on the same images; looking with the champion counts as an opening too.

    Args:
        home: where the stores are.
        study_name: whose test.
        version: of the model (default: what the study registered last).

    Raises:
        InputError: the study has no model, or its data is gone or changed.
        BusiSearchError: the ledger was changed.
    """
    study = find_study(home, study_name)
    released = StudyRecord(study).released
    if version is None:
        if released is None:
            raise InputError(f"Study '{study_name}' has registered no model yet; finish it first.")
        version = released.version
    chosen = find_version(home, version)
    context = reopen_study(study, home=home)
    if chosen.tags.get("busi.partition") != context.partition.digest():
        raise InputError(
            f"Version {chosen.version} was made on another division of the data than study "
            f"'{study_name}'; its test images may have been trained on."
        )
    classifier = load_champion(home, f"models:/{chosen.name}/{chosen.version}")
    ledger = SealLedger(home, study_name)
    ledger.check_version(chosen.tags)
    reason = {"study": study_name, "model": chosen.name, "version": chosen.version}
    test = open_sealed_test(
        context.spec.dataset,
        context.partition,
        size_pixels=classifier.size_pixels,
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
    others = rivals(home, chosen)
    against = [_against(home, context, ledger, rival, test, probabilities) for rival in others]
    without = figures(~test.has_twin) if test.has_twin.any() else None
    known = KnownImages(home)
    developed = known.developed_elsewhere(context.membership)
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
    _record(home, context, ledger, report, probabilities, test.paths)
    return report


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
    return {
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
    rival: RegisteredVersion,
    test: SealedTest,
    probabilities: npt.NDArray[np.float32],
) -> AgainstChampion:
    """Compare with another version, if it never saw these test images either."""
    if rival.tags.get("busi.partition") != context.partition.digest():
        return AgainstChampion(
            rival.version,
            "the champion was made on another division or other data; it may have been "
            "trained on these test images",
        )
    if rival.tags.get("busi.study") == context.name:
        ledger.check_version(rival.tags)
    difference = paired_difference(
        probabilities,
        _answers_of(home, context, ledger, rival, test.paths),
        test.labels,
        test.groups,
        positive=context.development.positive,
    )
    return AgainstChampion(rival.version, difference)


def _answers_of(
    home: Home,
    context: StudyContext,
    ledger: SealLedger,
    rival: RegisteredVersion,
    paths: tuple[str, ...],
) -> npt.NDArray[np.floating]:
    """Return (N, C) probabilities: as kept when a version was evaluated, or asked for now."""
    kept = stored_predictions(home, rival)
    if kept is not None and kept.keys() == set(paths):
        return np.array([kept[path] for path in paths])
    other = load_champion(home, f"models:/{rival.name}/{rival.version}")
    test = open_sealed_test(
        context.spec.dataset,
        context.partition,
        size_pixels=other.size_pixels,
        cache=home.cache,
        ledger=ledger,
        reason={"study": context.name, "model": rival.name, "version": rival.version},
    )
    return ask_module(other.module, test.images)


def _record(
    home: Home,
    context: StudyContext,
    ledger: SealLedger,
    report: TestReport,
    probabilities: npt.NDArray[np.float32],
    paths: tuple[str, ...],
) -> None:
    """Write the figures into the ledger, the model version's tags and the study run."""
    printed = report.figures.to_json()
    names = ("num_images", "auc", "auc_ci95", "accuracy", "sensitivity", "specificity")
    calibration = [key for n in CALIBRATION_FIGURES for key in (n, f"{n}_ci95")]
    short = {name: printed[name] for name in (*names, *calibration, "calibration_curve")}
    who = {"version": report.version.version, "partition": context.partition.digest()}
    full = report.to_json()
    # What other hospitals and subgroups are compared by.
    own: dict[str, Any] = {n: full[n] for n in ("of_positive", "subgroups") if n in full}
    ledger.append("figures", {**who, **short, **own})
    log_evaluation(
        home,
        report.version,
        report=report.to_json(),
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
    study_name = version.tags.get("busi.study", "")
    try:
        find_study(home, study_name)
    except InputError:
        return  # Made on another home, whose ledger is not here.
    SealLedger(home, study_name).check_version(version.tags)
