"""What is kept of an evaluation on the sealed test, and what the ledger says of it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.ledger import num_openings
from busi_search.home import Home
from busi_search.models.evaluations import (
    log_evaluation,
)
from busi_search.release.calibration_figures import CALIBRATION_FIGURES
from busi_search.release.sealed_report import TestReport
from busi_search.search.context import StudyContext
from busi_search.search.seal_ledger import SealLedger
from busi_search.wording import count_of


def held_by(ledger: SealLedger) -> str:
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


def keep_figures(
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
