"""What a study knows about itself, in sentences that the items of a checklist ask for."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from busi_search.release.winner import Winner
from busi_search.report.elsewhere import Place, judged_places, leading
from busi_search.report.in_words import auc_with_interval, found_and_spared, precision_sentence
from busi_search.report.model_card import Card
from busi_search.search.context import StudyContext

Facts = dict[str, str | None]


def study_facts(
    winner: Winner,
    card: Card,
    *,
    ledger: Sequence[Mapping[str, Any]],
    versions: Mapping[str, str],
    version: str | None,
) -> Facts:
    """Return every fact by its name; None: not known yet.

    Args:
        winner: the study's winner.
        card: its model card.
        ledger: entries of the sealed test's ledger.
        versions: what the study ran on, by name.
        version: number of the registered model, or None.
    """
    context, items = winner.context, dict(card)
    places = judged_places(winner, ledger, version)
    tested = any(entry["kind"] == "figures" for entry in ledger)
    return {
        "design": _design(winner),
        "limits": items["Intended use"],
        "data": items["Data"],
        "fingerprint": f"The images are identified by fingerprint `{_fingerprint(context)}`.",
        "left_out": _left_out(context),
        "classes": _classes(context),
        "predictors": "The only predictor is one still grey image; no clinical data enter.",
        "preparation": _preparation(winner),
        "missing": "No value is missing: an image without a label or that cannot be read is "
        "refused, never filled in.",
        "partition": items["Partition unit"],
        "same_labels": "Test images have labels from the same source as the others.",
        "contradictions": _contradictions(context),
        "model": items["Model"],
        "start": _start(winner),
        "tuning": items["Tuning procedure"],
        "choice": items["Cross-validated performance"],
        "ensemble": f"The model averages the {len(winner.folds)} models of the winner's folds.",
        "imbalance": _imbalance(winner),
        "measures": "AUC, AUPR, accuracy, balanced accuracy, F1, sensitivity and specificity at a "
        "fixed threshold, calibration (intercept, slope, observed/expected, error) and net "
        "benefit, with ROC, precision-recall and calibration curves in the report.",
        "uncertainty": "Intervals are of 95 % and resample whole groups; figures of the chosen "
        "configuration are corrected for having been chosen; paired AUCs are compared by DeLong's "
        "method for clustered images.",
        "calibration": items["Calibration"],
        "operating_point": items["Operating point"],
        "cross_validation": items["Cross-validated performance"],
        "sealed_test": items["Sealed test"] if tested else None,
        "confusion": _confusion(leading(places)) if tested else None,
        "precision": precision_sentence(winner),
        "flow": _flow(context),
        "parts": _parts(context),
        "subgroups": _subgroups(context, leading(places)),
        "devices": _values_of(context, "device"),
        "elsewhere": _elsewhere(places, _positive(context)),
        "failures": items["Failures"],
        "explanations": "Grad-CAM maps of held-out images are in the report; they were not "
        "validated as explanations.",
        "unlike": "Every image gets a prediction; `predict` and the page say when it looks unlike "
        "the training images.",
        "blind": "The model sees pixels alone; test labels were sealed until it was fixed.",
        "no_contact": "No patient was examined for this study; stored images were read.",
        "scope": context.partition.grouping.scope,
        "software": ", ".join(f"{name} {found}" for name, found in versions.items()) + ".",
        "version": None if version is None else f"Registered as version {version}.",
        "code": items["Reproducibility"],
        "protocol": "The study file, fixed before the search, is printed in the report and kept "
        "with the study's run.",
        "audit": "Every opening of the sealed test is recorded in a chained ledger; "
        f"{items['Reproducibility']}",
    }


def _fingerprint(context: StudyContext) -> str:
    return context.partition.fingerprint


def _design(winner: Winner) -> str:
    context = winner.context
    test = f" and tested once on {context.counts['num_test']} sealed images"
    return (
        "Development of a deep-learning classifier of stored breast-ultrasound images into "
        f"{_listed(context.development.class_names)} (retrospective: the images existed before "
        f"the study), cross-validated{test if context.counts['num_test'] else ''}; AUC "
        f"{winner.estimates['auc'].value:.3f} after correction for the choice."
    )


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _classes(context: StudyContext) -> str:
    names, positive = context.development.class_names, context.development.positive
    return f"The outcome is {_listed(names)}, as labelled; {names[positive]} is the positive class."


def _left_out(context: StudyContext) -> str:
    return (
        f"{context.counts['num_quarantined']} of {context.counts['num_images']} images were left "
        "out, for their near-duplicates are labelled otherwise."
    )


def _contradictions(context: StudyContext) -> str:
    return (
        f"{context.counts['num_conflicts']} groups of near-duplicates had contradictory labels and "
        "were left out."
    )


def _preparation(winner: Winner) -> str:
    settings = winner.hyperparameters
    return (
        f"Images are turned to grey and scaled to {settings.image_size_pixels} px; in training "
        f"they are varied at random with strength {settings.augmentation_strength:.2f} of 1."
    )


def _start(winner: Winner) -> str:
    weights = winner.hyperparameters.weights
    known = {"none": "at random", "imagenet": "from ImageNet weights"}
    return f"Training began {known.get(weights, f'from weights `{weights}`')}, with stored seeds."


def _imbalance(winner: Winner) -> str:
    settings = winner.hyperparameters
    return (
        f"Class weights in the loss: {settings.class_weighting}; batches balanced by class: "
        f"{'yes' if settings.balanced_sampling else 'no'}. Predictions are calibrated afterwards."
    )


def _flow(context: StudyContext) -> str:
    counts = context.counts
    return (
        f"{counts['num_images']} images in {counts['num_groups']} groups: "
        f"{counts['num_quarantined']} left out, {counts['num_development']} for development, "
        f"{counts['num_test']} sealed for the test."
    )


def _parts(context: StudyContext) -> str:
    development = context.development
    return (
        f"Development: {_counted(development.labels, development.class_names)}. The test holds "
        f"{context.counts['num_test']} images, drawn with the same shares unless the split is the "
        "authors' own."
    )


def _counted(labels: npt.NDArray[np.int64], names: Sequence[str]) -> str:
    return ", ".join(f"{int(np.sum(labels == c))} {name}" for c, name in enumerate(names))


def _positive(context: StudyContext) -> str:
    return context.development.class_names[context.development.positive]


def _subgroups(context: StudyContext, place: Place) -> str | None:
    """How many development images there are of each value of a property, and how each does."""
    counted = [_values_of(context, name) for name in ("site", "device", "birads")]
    name = _positive(context)
    judged = "; ".join(
        f"{part['by']} {part['level']} ({part['num_images']} images): {_figures(part, name)}"
        for part in place.subgroups
        if part.get("auc") is not None
    )
    said = [sentence for sentence in counted if sentence is not None]
    return " ".join([*said, *([f"Of {place.title}: {judged}."] if judged else [])]) or None


def _figures(part: Mapping[str, Any], name: str) -> str:
    return f"{auc_with_interval(part)}, {found_and_spared(part, name)}"


def _elsewhere(places: Sequence[Place], name: str) -> str | None:
    """What the model gave at each other hospital that was asked."""
    found = [
        f"On {place.figures['num_images']} images of {place.title}: "
        f"{_figures(place.figures, name)}."
        for place in places
        if place.kind == "elsewhere"
    ]
    return " ".join(found) or None


def _confusion(place: Place) -> str:
    """The table at the operating point, in words."""
    if place.kind != "test" or place.curves is None:
        return "The table is in `evaluate --json` under `confusion`."
    rows = (
        f"of {sum(pair)} {kind} images {pair[0]} were called positive and {pair[1]} were not"
        for kind, pair in place.curves.called.items()
    )
    return f"At the operating point, {'; '.join(rows)}."


def _values_of(context: StudyContext, name: str) -> str | None:
    values = [value for value in context.development.properties.get(name, ()) if value]
    if not values:
        return None
    kinds, counts = np.unique(values, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:8]
    more = f" and {len(kinds) - 8} more" if len(kinds) > 8 else ""
    return f"By {name}: {', '.join(f'{kinds[i]} {counts[i]}' for i in largest)}{more}."
