"""A model card: the items of TRIPOD+AI and CLAIM 2024 that a machine can know."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.trial import TrialState

from busi_search.data.geometry import WHOLE
from busi_search.data.known_images import KnownImages
from busi_search.data.ledger import mendings
from busi_search.release.calibration_figures import CALIBRATION_FIGURES, calibration_curve
from busi_search.release.descriptions import describe_calibration, shown_estimates
from busi_search.release.winner import Winner
from busi_search.report.elsewhere import cell, latest_external
from busi_search.report.gallery import images_to_look_at
from busi_search.report.in_words import auc_with_interval, found_and_spared
from busi_search.search.context import StudyContext
from busi_search.search.seal_register import num_openings_of

Card = list[tuple[str, str]]

UNKNOWN = (
    "patients' age, sex, ethnicity and inclusion criteria; ultrasound devices, sites, operators; "
    "how the labels were confirmed (biopsy, follow-up); ethics approval; performance in a clinical "
    "workflow"
)


def make_model_card(
    winner: Winner, ledger: Sequence[Mapping[str, Any]], version: str | None = None
) -> Card:
    """Return the items of the card, each a heading and a sentence or two of Markdown.

    Args:
        winner: the study's winner.
        ledger: the entries of the sealed test's ledger.
        version: that the winner is registered as; None: not known, and the last one is meant.
    """
    context = winner.context
    test, validated = (
        ("Sealed test", _sealed_test(context, ledger, version)),
        ("Cross-validated performance", _performance(winner)),
    )
    opened = any(entry["kind"] == "figures" for entry in ledger)
    return [
        ("Intended use", _intended_use(context)),
        ("Data", _data(context)),
        ("Partition unit", _partition(context)),
        ("Model", _model(winner)),
        ("Tuning procedure", _tuning(winner)),
        *([test, validated] if opened else [validated, test]),
        ("Other hospitals", _other_hospitals(ledger)),
        ("Calibration", _calibration(winner)),
        ("Operating point", _operating_point(winner)),
        ("Failures", _failures(winner)),
        ("Reproducibility", _reproducibility(winner)),
        ("Not known to the software", UNKNOWN + "."),
    ]


def card_markdown(title: str, card: Card) -> str:
    """Return the card as a Markdown document."""
    return "\n\n".join([f"# Model card: {title}", *(f"## {head}\n\n{text}" for head, text in card)])


def _intended_use(context: StudyContext) -> str:
    warning = ""
    if context.development.simulated:
        warning = "Trained on simulated phantoms: its answers mean nothing for patients. "
    return (
        f"{warning}Research on the classification of single breast-ultrasound images into "
        f"{', '.join(context.development.class_names)}. Not a medical device; not for decisions "
        "about patients. It sees one still image, without the patient's history or a second view. "
        "It gives an answer for any image, even one that is not ultrasound."
    )


def _data(context: StudyContext) -> str:
    development, counts = context.development, context.counts
    shares = ", ".join(
        f"{name} {int(np.sum(development.labels == label))}"
        for label, name in enumerate(development.class_names)
    )
    return (
        f"{development.name}, {counts['num_images']} images (fingerprint "
        f"`{context.partition.fingerprint}`); development part: {shares}. Left out: "
        f"{counts['num_quarantined']} images whose near-duplicates are labelled otherwise, "
        f"{counts['num_test_quarantined']} of them from an official test. Grey, "
        f"{context.spec.dataset.image_size_pixels} px square."
    )


def _partition(context: StudyContext) -> str:
    earlier = context.partition.earlier
    kept = f" An earlier version made this division: {earlier}." if earlier else ""
    return (
        f"The unit is the group: {context.partition.grouping}. No group crosses a fold; "
        f"{len(context.partition.folds)} stratified folds over {context.counts['num_development']} "
        f"images; sealed test: {context.spec.dataset.test} ({context.counts['num_test']} images). "
        f"{context.partition.grouping.scope}{kept}"
    )


def _model(winner: Winner) -> str:
    settings = winner.hyperparameters.model_dump()
    stated = {key: value for key, value in settings.items() if value is not None}
    listed = ", ".join(f"{key} = {value}" for key, value in stated.items())
    geometry = winner.context.geometry(winner.hyperparameters)
    seen = "" if geometry == WHOLE else f" What is done with an image: {geometry.describe()}."
    if geometry.needs_lesion:
        seen += (
            " It must be told where the lesion is, as in training; its figures hold for boxes as "
            "accurate as the masks or boxes that it was trained with."
        )
    return (
        f"Average of the {len(winner.folds)} fold models of trial {winner.number}, "
        f"calibrated. {listed}.{seen}"
    )


def _tuning(winner: Winner) -> str:
    count = Counter(trial.state for trial in winner.trials)
    section = winner.context.spec.study
    return (
        f"{count[TrialState.COMPLETE]} configurations evaluated on all folds, "
        f"{count[TrialState.PRUNED]} stopped early, {count[TrialState.FAIL]} failed. Sampler "
        f"{section.sampler}, pruner {section.pruner}, objective {section.objective}, seed "
        f"{section.seed}. Searched: {', '.join(winner.context.spec.space)}. The epoch is not "
        "chosen on the scored fold."
    )


def _performance(winner: Winner) -> str:
    main = winner.context.spec.study.metric
    listed = "; ".join(
        f"{name} {found.naive:.3f} as found, {found.value:.3f} corrected for the choice "
        f"(95 % interval {found.low:.3f} to {found.high:.3f})"
        for name, found in shown_estimates(winner.estimates, main).items()
    )
    return f"Chosen by cv_{main}. {listed}."


def _sealed_test(
    context: StudyContext, ledger: Sequence[Mapping[str, Any]], version: str | None
) -> str:
    openings = num_openings_of(KnownImages(context.home), context.membership, context.home)
    remarks = "".join(f" The ledger was mended, {found}." for found in mendings(ledger))
    if context.developed_by:
        remarks += (
            f" Not independent: {context.test_not_independent} images show scans that other "
            f"studies of this home developed on ({', '.join(context.developed_by)})."
        )
    figures = [entry for entry in ledger if entry["kind"] == "figures"]
    if not figures:
        if not openings:
            return f"Sealed: no model was evaluated on these images yet.{remarks}"
        return f"{_opened(openings)}; its figures are not kept here.{remarks}"
    own = [entry for entry in figures if entry["version"] == version]
    last = (own or figures)[-1]
    name = context.development.class_names[context.development.positive]
    return (
        f"On {last['num_images']} images that version {last['version']} had not seen, "
        f"{found_and_spared(last, name)}. {auc_with_interval(last)}, accuracy "
        f"{last['accuracy']:.3f}. {_opened(max(1, openings))}.{_test_calibration(last)}{remarks}"
    )


def _opened(openings: int) -> str:
    return f"Opened {'once' if openings == 1 else f'{openings} times'}"


def _other_hospitals(ledger: Sequence[Mapping[str, Any]]) -> str:
    latest = latest_external(ledger)
    if not latest:
        return (
            "Not known: no images from another hospital were evaluated yet "
            "(`busi-search evaluate --data`)."
        )
    names = ("auc", "sensitivity", "specificity", "calibration_slope")
    return " ".join(
        f"Version {entry['version']} on {entry['data']['num_evaluated']} images of "
        f"{entry['data']['name']}: "
        + ", ".join(f"{name.replace('_', ' ')} {cell(entry['figures'], name)}" for name in names)
        + "."
        for entry in latest
    )


def _test_calibration(entry: Mapping[str, Any]) -> str:
    """What the sealed test says of calibration; nothing where it was opened earlier."""
    if "calibration_curve" not in entry:
        return ""
    names = {name: name.replace("calibration_", "") for name in CALIBRATION_FIGURES}
    listed = ", ".join(
        f"{short.replace('_', '/')} {entry[name]:.2f} ({low:.2f} to {high:.2f})"
        for name, short in names.items()
        if entry[name] is not None
        for low, high in [entry[f"{name}_ci95"]]
    )
    curve = _drawn(entry["calibration_curve"])
    return f" Calibration: {listed}; share of positives: {curve}."


def _calibration(winner: Winner) -> str:
    development = winner.context.development
    truth = development.labels == development.positive
    scores = winner.cross_fitted[:, development.positive]
    curve = calibration_curve(scores, truth, winner.context.groups)
    sentence = describe_calibration(winner)
    return (
        f"{sentence[0].upper()}{sentence[1:]}. At best intercept 0, slope 1, observed/expected 1, "
        f"error 0. Share of positives: {_drawn(curve)}. The registered model averages "
        "the fold models, which makes it a little less sure than each of them."
    )


def _drawn(curve: Sequence[Mapping[str, float]]) -> str:
    return "; ".join(
        f"{found['predicted']:.2f} predicted, {found['observed']:.2f} observed "
        f"({found['low']:.2f} to {found['high']:.2f})"
        for found in curve
    )


def _operating_point(winner: Winner) -> str:
    development, point = winner.context.development, winner.calibration.operating_point
    name = development.class_names[development.positive]
    point_figures = zip(("sensitivity", "specificity"), winner.cross_fitted_point, strict=True)
    listed = " and ".join(
        f"{kind} {found.value:.3f} (95 % interval {found.ci95[0]:.3f} to {found.ci95[1]:.3f})"
        for kind, found in point_figures
    )
    return (
        f"An image is called {name} if its probability is {point.threshold:.3f} or more. The rule: "
        f"{winner.context.spec.operating_point.in_words(name)}, chosen on out-of-fold predictions. "
        f"Cross-fitted, each fold by the threshold of the others: {listed}."
    )


def _failures(winner: Winner) -> str:
    development, chosen = winner.context.development, images_to_look_at(winner)
    name, scores = development.class_names[development.positive], winner.cross_fitted
    worst = "; ".join(
        f"`{development.paths[i]}` ({scores[i, development.positive]:.2f})"
        for i in chosen.missed[:10].tolist()
    )
    listed = f"; those with the lowest probability of {name}: {worst}" if worst else ""
    mixed = f" {chosen.num_mixed} were taken for another wrong class." if chosen.num_mixed else ""
    truth = development.labels == development.positive
    return (
        f"Out of fold, {chosen.num_missed} of {int(truth.sum())} {name} images were missed"
        f"{listed}. {chosen.num_alarms} of {int((~truth).sum())} others were called {name}.{mixed}"
    )


def _reproducibility(winner: Winner) -> str:
    return (
        f"`busi-search replay {winner.context.name} {winner.number}` trains the winner again and "
        "compares every fold. Study file, versions and fold membership are artifacts of the study "
        "run."
    )
