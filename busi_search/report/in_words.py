"""Sentences about a study that its page, its model card and its checklists share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.data.groups import PATIENTS
from busi_search.release.precision import auc_margin, num_for_auc, num_for_share
from busi_search.release.winner import Winner
from busi_search.search.context import StudyContext

# Within so much an AUC should be known before it means something for a clinic.
WANTED_MARGIN = 0.03
WANTED_SHARE_MARGIN = 0.05
Row = Mapping[str, Any]


def percent(share: float) -> str:
    """Return a share as people read it, such as ``91 %``."""
    return f"{100 * share:.0f} %"


def percent_interval(figures: Row, name: str) -> str:
    """Return a share with its 95 % interval, both in percent.

    Args:
        figures: as JSON has them, intervals as ``NAME_ci95``.
        name: of a share that is known.
    """
    low, high = figures.get(f"{name}_ci95") or (None, None)
    if low is None or high is None:
        return percent(figures[name])
    return f"{percent(figures[name])} (95 % interval {percent(low)} to {percent(high)})"


def ill_images(name: str) -> str:
    """Return what images of the positive class show, in the words of a clinic."""
    return "cancers" if name == "malignant" else f"'{name}' images"


def found_and_spared(figures: Row, name: str) -> str:
    """Return "it found 91 % of the cancers at a specificity of 58 %", with intervals and counts.

    Args:
        figures: ``sensitivity`` and ``specificity`` with intervals, as JSON has them.
        name: of the positive class.
    """
    if figures.get("sensitivity") is None or figures.get("specificity") is None:
        return f"too few images show how many of the {ill_images(name)} it finds"
    return (
        f"it found {percent_interval(figures, 'sensitivity')} of the {ill_images(name)} at a "
        f"specificity of {percent_interval(figures, 'specificity')}"
    )


def auc_with_interval(figures: Row) -> str:
    """Return "AUC 0.932 (95 % interval 0.893 to 0.961)"; empty where it is not known."""
    if figures.get("auc") is None:
        return ""
    low, high = figures.get("auc_ci95") or (None, None)
    limits = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
    return f"AUC {figures['auc']:.3f}{limits}"


def num_patients(context: StudyContext, indices: npt.NDArray[np.integer]) -> int | None:
    """Return of how many patients some images of a study are; None where patients are unknown.

    Args:
        context: the study.
        indices: of the images among all of the dataset.
    """
    grouping = context.partition.grouping
    if grouping.known is None or grouping.origin != PATIENTS:
        return None
    return len(np.unique(grouping.known[indices]))


def images_of_patients(context: StudyContext, indices: npt.NDArray[np.integer]) -> str:
    """Return how many images there are and of how many patients, or groups of look-alikes."""
    number, patients = len(indices), num_patients(context, indices)
    if patients is not None:
        return f"{number:,} images of {patients:,} patients"
    groups = len(np.unique(context.partition.groups[indices]))
    return f"{number:,} images in {groups:,} groups (patients are not known)"


def precision_sentence(winner: Winner) -> str:
    """Return what the sealed test can show, by its number of groups, and what it would take."""
    context, auc = winner.context, winner.estimates["auc"].value
    groups = len(np.unique(context.partition.groups[context.partition.test]))
    development = context.development
    share = float(np.mean(development.labels == development.positive))
    expected = min(max(auc, 0.5), 0.99)
    needed = num_for_auc(expected, WANTED_MARGIN, share)
    name = development.class_names[development.positive]
    sensitivity = winner.calibration.operating_point.sensitivity
    shown = ""
    if groups:
        margin = auc_margin(expected, groups, share)
        shown = f"The sealed test holds {groups} independent groups and measures an AUC of "
        shown += f"{expected:.2f} to about ± {margin:.2f}. "
    return (
        f"{shown}Measuring it to ± {WANTED_MARGIN:.2f} takes {needed} patients, "
        f"{round(needed * share)} of them {name} (Riley et al. 2021); measuring a sensitivity of "
        f"{sensitivity:.2f} to ± {WANTED_SHARE_MARGIN:.2f} takes "
        f"{num_for_share(sensitivity, WANTED_SHARE_MARGIN)} who are {name}. ± is half of the 95 % "
        "interval."
    )
