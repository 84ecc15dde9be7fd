"""How an external evaluation and a recalibration look on a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from busi_search.release.external import ExternalReport
from busi_search.release.local_data import WAYS, LocalHelp
from busi_search.release.other_data import LeftOut
from busi_search.release.recalibrate import RecalibrationResult
from busi_search.release.subgroups import Subgroup
from busi_search.terminal import err

_NAMED = 5


def show_external_report(report: ExternalReport) -> None:
    """Print what a model scores elsewhere: figures, decision curve, subgroups, local data."""
    out = Console(highlight=False)
    data, positive = report.data, report.test.positive_class
    _show_left_out(data.left_out, data.notes)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column(
        f"{escape(data.name)} ({len(data.labels)} images, {report.figures.num_positive} "
        f"{escape(positive)})"
    )
    found = {**report.test.metrics, **report.figures.figures}
    for name in ("auc", "aupr", "sensitivity", "specificity", "ppv", "npv", "brier"):
        table.add_row(name, f"{found[name]:.3f}")
    for name in report.test.calibration:
        table.add_row(name, f"{report.test.figure(name):.2f}")
    for row in report.prevalences:
        for name in ("ppv", "npv"):
            table.add_row(f"{name} at prevalence {row['prevalence']:g}", _written(row, name))
    out.print(table)
    _show_net_benefit(out, report)
    _show_subgroups(out, report.subgroups)
    _show_local_data(out, report.local_data, report.wanted_sensitivity)
    unlike = report.figures.num_unlike
    err.print(
        f"{report.version.name} version {report.version.version}, evaluation "
        f"{report.evaluations} of this study on these images; temperature and operating point "
        f"({report.test.operating_threshold:.4f}) are those of the study. Figures are of "
        f"'{positive}' against all others, intervals of {report.figures.num_groups} groups of "
        f"images (the whole set has {data.grouping}).",
        markup=False,
    )
    if unlike is not None:
        err.print(f"{unlike} of {len(data.labels)} images look unlike the training images.")
    if report.opened is not None:
        err.print(report.opened, markup=False)


def _show_left_out(left_out: LeftOut, notes: Sequence[str]) -> None:
    for note in notes:
        err.print(note, markup=False)
    reasons = {
        "show scans that the model was developed on": left_out.in_development,
        "are in the sealed test of the model's own study": left_out.in_own_test,
        "have near-duplicates that are labelled otherwise": left_out.contradictory,
        "are sealed by other studies": left_out.sealed,
    }
    for reason, names in reasons.items():
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            listed = ", ".join(names[:_NAMED])
            err.print(f"Left out: {len(names)} images {reason} ({listed}{more}).", markup=False)
    for name, count in left_out.by_class.items():
        err.print(f"Left out by --map: {count} images of '{name}'.", markup=False)


def _written(row: object, name: str) -> str:
    assert isinstance(row, dict)
    if row[name] is None:
        return "–"
    low, high = row[f"{name}_ci95"]
    return f"{row[name]:.3f} ({low:.3f} to {high:.3f})"


def _show_net_benefit(out: Console, report: ExternalReport) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", title="Net benefit")
    for header in ("threshold", "model", "treat all", "treat none", "model − best of both"):
        table.add_column(header)
    for row in report.net_benefit:
        table.add_row(
            f"{row['threshold']:g}",
            _written(row, "model"),
            f"{row['treat_all']:.3f}",
            "0",
            _written(row, "model_minus_best"),
        )
    out.print(table)


def _show_subgroups(out: Console, subgroups: Sequence[Subgroup]) -> None:
    if not subgroups:
        return
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", title="Subgroups")
    for header in ("", "images", "positive", "auc", "sensitivity", "specificity", "slope"):
        table.add_column(header)
    for found in subgroups:
        figures = found.figures.figures
        table.add_row(
            escape(f"{found.by}: {found.level}"),
            str(found.figures.num_images),
            str(found.figures.num_positive),
            *(f"{figures[name]:.2f}" for name in ("auc", "sensitivity", "specificity")),
            f"{figures['calibration_slope']:.2f}",
        )
    out.print(table)
    for found in subgroups:
        if found.figures.remark:
            err.print(f"{found.by}: {found.level}: {found.figures.remark}", markup=False)


def _show_local_data(out: Console, rows: Sequence[LocalHelp], wanted: float) -> None:
    if not rows:
        return
    title = f"What local images would change (target sensitivity: {wanted:.3f})"
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left", title=title)
    for header in ("refitted", "groups", "sensitivity", "missed in", "specificity", "log loss"):
        table.add_column(header)
    shown = [row for row in rows if row.what != "as it is" or row.num_groups == rows[0].num_groups]
    for row in sorted(shown, key=lambda row: (WAYS.index(row.what), row.num_groups)):
        low, high = row.sensitivity_range
        least, most = row.specificity_range
        table.add_row(
            "nothing" if row.what == "as it is" else row.what,
            "" if row.what == "as it is" else str(row.num_groups),
            f"{row.sensitivity:.2f} ({low:.2f} to {high:.2f})",
            f"{100 * row.share_missed:.0f} % of draws",
            f"{row.specificity:.2f} ({least:.2f} to {most:.2f})",
            f"{row.log_loss:.3f}",
        )
    out.print(table)


def show_recalibration(result: RecalibrationResult) -> None:
    """Print what was changed, what it is worth, and what to type next."""
    out = Console(highlight=False)
    _show_left_out(result.data.left_out, result.data.notes)
    before, after, local = result.before, result.after, result.figures_before.figures
    table = Table(box=None, padding=(0, 2, 0, 0))
    for header in ("", f"version {result.parent.version}", f"version {result.version.version}"):
        table.add_column(header)
    table.add_row("threshold", f"{before.threshold:.4f}", f"{after.threshold:.4f}")
    for name in ("intercept", "slope"):
        values = (getattr(found.recalibration, name) for found in (before, after))
        table.add_row(name, *(f"{value:.3f}" for value in values))
    for name in ("sensitivity", "specificity"):
        table.add_row(name, f"{local[name]:.3f}", f"{result.held_out[name]:.3f}")
    losses = (result.held_out[name] for name in ("log_loss_before", "log_loss"))
    table.add_row("log loss", *(f"{value:.3f}" for value in losses))
    out.print(table)
    err.print(
        f"{len(result.data.labels)} images of '{result.data.name}', {result.data.grouping}. "
        f"Figures of version {result.version.version} are of images that were left out, in "
        "repeated five-fold cross-validation; target sensitivity: "
        f"{result.wanted_sensitivity:.3f}, missed in "
        f"{100 * result.held_out['share_missed']:.0f} % of the parts left out.",
        markup=False,
    )
    if result.opened is not None:
        err.print(result.opened, markup=False)
    err.print(
        f"{result.version.name} version {result.version.version} is the candidate; "
        "`busi-search promote` decides by the study's own sealed test.",
        markup=False,
    )
