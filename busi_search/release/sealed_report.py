"""What one model scored on the sealed test."""

from dataclasses import dataclass
from typing import Any

from busi_search.models.registry import RegisteredVersion
from busi_search.release.comparison import AgainstChampion
from busi_search.release.curves import Curves
from busi_search.release.figures import TestFigures
from busi_search.release.positive_figures import PositiveFigures
from busi_search.release.subgroups import Subgroup


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
        curves: what a page draws of the positive class; None where the test lacks a class.
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
    curves: Curves | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``busi-search evaluate --json`` prints it."""
        result: dict[str, Any] = {
            "model": self.version.place,
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
        if self.curves is not None:
            result["curves"] = self.curves.to_json()
        return result
