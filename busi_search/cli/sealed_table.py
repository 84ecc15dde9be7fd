"""How the figures of a sealed test look on a terminal."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from busi_search.terminal import err
from busi_search.wording import count_of

if TYPE_CHECKING:
    from busi_search.release.sealed_report import TestReport


def show_test_report(report: "TestReport") -> None:
    """Print what a model scored on the sealed test, with intervals."""
    tables = [("sealed test", report.figures)]
    if report.figures_without_twins is not None:
        tables.append(("without twins in development", report.figures_without_twins))
    if report.figures_independent is not None:
        tables.append(("independent alone", report.figures_independent))
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for title, figures in tables:
        table.add_column(f"{title} ({figures.num_images} images)")
    names = ("auc", "aupr", "accuracy", "balanced_accuracy", "f1", "sensitivity", "specificity")
    for name in (*names, "log_loss", "brier", *report.figures.calibration, "ece"):
        table.add_row(name, *(f"{figures.figure(name):.3f}" for _, figures in tables))
    Console(highlight=False).print(table)
    err.print(
        f"Calibration is of the probability of '{report.figures.positive_class}': at best "
        "intercept 0, slope 1, observed/expected 1, error 0. ece is binned and grows with noise: a "
        "perfectly calibrated model has "
        f"{report.figures.ece_if_calibrated:.3f} on these images."
    )
    err.print(
        f"{report.version.name} version {report.version.version}; the sealed test was opened "
        f"{count_of(report.openings, 'time')}. Sensitivity and specificity are of "
        f"'{report.figures.positive_class}' at the operating point fixed before."
    )
    if report.num_not_independent:
        missing = "" if report.figures_independent is not None else ", and too few others are left"
        err.print(
            f"Not independent: {report.num_not_independent} of {report.figures.num_images} sealed "
            "images show scans that other studies of this home developed on "
            f"({escape(', '.join(report.developed_by))}){missing}."
        )
    for mended in report.ledger_mended:
        err.print(f"The ledger of the sealed test was repaired: {mended}.", markup=False)
    for compared in (report.against_champion, report.against_best_champion):
        if compared is not None:
            err.print(compared.to_text(), markup=False)
