"""The sealed test: opened on request, counted, and reported with intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.known_images import KnownImages
from busi_search.data.ledger import append_to_ledger, ledger_path, read_ledger
from busi_search.data.sealed import open_sealed_test
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.models.evaluations import log_evaluation
from busi_search.models.predict import Classifier, ask_module, load_champion
from busi_search.models.registry import RegisteredVersion, current_champion, find_version
from busi_search.release.comparison import AgainstChampion, paired_difference
from busi_search.release.figures import TestFigures, compute_test_figures
from busi_search.search.context import StudyContext, reopen_study
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
        figures_without_twins: of the images without a near-duplicate in the development part;
            None where there are no twins.
        num_not_independent: test images that other studies of the home developed on.
        developed_by: names of these studies.
        figures_independent: of the other test images; None where all are independent, or where the
            others lack a class.
        against_champion: paired comparison with the champion on the same images, or None.
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
        BusiSearchError: the ledger was tampered with.
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
    ledger = ledger_path(home, study_name)
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
    against = _against_champion(home, context, classifier, chosen, probabilities)
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
        against_champion=against,
    )
    _record(home, context, report, probabilities, test.paths)
    return report


def _against_champion(
    home: Home,
    context: StudyContext,
    classifier: Classifier,
    chosen: RegisteredVersion,
    probabilities: npt.NDArray[np.float32],
) -> AgainstChampion | None:
    """Compare with the champion, if it never saw these test images either."""
    champion = current_champion(home, name=chosen.name)
    if champion is None or champion.version == chosen.version:
        return None
    if champion.tags.get("busi.partition") != context.partition.digest():
        return AgainstChampion(
            champion.version,
            "the champion was made on another division or other data; it may have been "
            "trained on these test images",
        )
    other = load_champion(home, f"models:/{champion.name}/{champion.version}")
    test = open_sealed_test(
        context.spec.dataset,
        context.partition,
        size_pixels=other.size_pixels,
        cache=home.cache,
        ledger=ledger_path(home, context.name),
        reason={"study": context.name, "model": champion.name, "version": champion.version},
    )
    difference = paired_difference(
        probabilities,
        ask_module(other.module, test.images),
        test.labels,
        test.groups,
        positive=context.development.positive,
    )
    return AgainstChampion(champion.version, difference)


def _record(
    home: Home,
    context: StudyContext,
    report: TestReport,
    probabilities: npt.NDArray[np.float32],
    paths: tuple[str, ...],
) -> None:
    """Write the figures into the ledger, the model version's tags and the study run."""
    printed = report.figures.to_json()
    names = ("num_images", "auc", "auc_ci95", "accuracy", "sensitivity", "specificity")
    short = {name: printed[name] for name in names}
    ledger = ledger_path(home, context.name)
    who = {"version": report.version.version, "partition": context.partition.digest()}
    append_to_ledger(ledger, "figures", {**who, **short})
    log_evaluation(
        home,
        report.version,
        report=report.to_json(),
        ledger=read_ledger(ledger),
        predictions={
            path: [round(float(p), 6) for p in row]
            for path, row in zip(paths, probabilities, strict=True)
        },
    )
