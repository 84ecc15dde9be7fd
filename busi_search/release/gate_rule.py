"""What the gate asks of a candidate's figures; pure functions and what they return."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy.stats import norm

from busi_search.release.calibration_figures import beyond_calibration_limit
from busi_search.release.comparison import AgainstChampion, Difference
from busi_search.spec import Gate


@dataclass(frozen=True)
class Judgement:
    """What the gate makes of a candidate.

    Attributes:
        refusals: why it may not become champion; none: it may.
        notes: sentences on what the figures are worth.
        evidence: the figures behind it, as ``promote --json`` prints them.
    """

    refusals: tuple[str, ...]
    notes: tuple[str, ...]
    evidence: Mapping[str, Any]


def judge(
    figures: Mapping[str, float], compared: Sequence[AgainstChampion], gate: Gate, *, openings: int
) -> Judgement:
    """Hold a candidate against the gate's limits and against the champions.

    Args:
        figures: of the sealed test, as :func:`busi_search.models.evaluations.evaluated_figures`
            returns them.
        compared: with the best champion so far (first), and with the present one.
        gate: limits.
        openings: how often the sealed test was opened.
    """
    refusals = beyond_limits(figures, gate)
    for other in compared:
        refusals += _refused_against(other, gate, openings)
    found = compared[0].found if compared else None
    best = found if isinstance(found, Difference) else None
    evidence = _evidence(figures, gate, openings, best)
    evidence["best_champion"] = compared[0].champion if compared else None
    return Judgement(tuple(refusals), _notes(evidence, gate), evidence)


def margin(gate: Gate, openings: int) -> float:
    """Return by how much AUC a candidate may be worse: nothing once the sealed test is spent.

    From then on only a clear improvement counts (the ladder of Blum and Hardt 2015,
    arXiv:1502.04585).
    """
    return gate.max_auc_drop if openings <= gate.max_openings else 0.0


def passes(difference: Difference, gate: Gate, openings: int) -> bool:
    """Whether a candidate is shown to be no more than the margin worse than a champion."""
    return difference.lower_bound(gate.confidence) > -margin(gate, openings)


def beyond_limits(figures: Mapping[str, float], gate: Gate) -> list[str]:
    """Return which figures are beyond the gate's limits; it decides on all of their digits.

    Args:
        figures: of the sealed test, by name.
        gate: limits.
    """
    refusals = []
    unknown = [name for name in ("auc", "sensitivity") if not _known(figures.get(name))]
    if unknown:
        return [f"its {' and '.join(unknown)} cannot be computed from so few test images"]
    if not (_known(figures.get("auc_low")) and _known(figures.get("auc_high"))):
        return ["its AUC has no interval: the sealed test holds too few images of a class"]
    bound, sensitivity = auc_bound(figures, gate.confidence), figures["sensitivity"]
    if bound <= gate.min_auc:
        refusals.append(
            f"its AUC of {figures['auc']:.3f} may, with {100 * gate.confidence:g} % confidence, be "
            f"as low as {bound:.3f}, and must be shown to be above {gate.min_auc:.3f} (min_auc)"
        )
    if sensitivity < gate.min_sensitivity:
        refusals.append(
            f"its sensitivity at the operating point: "
            f"{_apart(sensitivity, 'is below', gate.min_sensitivity)} (min_sensitivity)"
        )
    if gate.max_ece is not None:
        beyond = beyond_calibration_limit(figures, gate.max_ece)
        refusals += [] if beyond is None else [beyond]
    return refusals


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def auc_bound(figures: Mapping[str, float], confidence: float) -> float:
    """Return the one-sided lower bound of an AUC, on the logit scale.

    Args:
        figures: ``auc`` and its 95 % interval, ``auc_low`` and ``auc_high``.
        confidence: 0.5 to 1.
    """
    value, low, high = figures["auc"], figures["auc_low"], figures["auc_high"]
    if not 0 < low <= value <= high < 1:
        return low if confidence > 0.5 else value
    error = (_logit(high) - _logit(low)) / (2 * norm.ppf(0.975))
    return 1 / (1 + math.exp(norm.ppf(confidence) * error - _logit(value)))


def _logit(share: float) -> float:
    return math.log(share / (1 - share))


def _apart(value: float, relation: str, limit: float) -> str:
    """Write two numbers with three digits, or with as many as it takes to tell them apart."""
    digits = 3
    while digits < 9 and f"{value:.{digits}f}" == f"{limit:.{digits}f}":
        digits += 1
    return f"{value:.{digits}f} {relation} {limit:.{digits}f}"


def _refused_against(compared: AgainstChampion, gate: Gate, openings: int) -> list[str]:
    """Reasons from the paired comparison with one champion on the same sealed test."""
    if isinstance(compared.found, str):
        return [f"it cannot be compared with version {compared.champion}: {compared.found}"]
    if passes(compared.found, gate, openings):
        return []
    allowed = margin(gate, openings)
    return [
        f"its AUC is {compared.found.auc:+.3f} against version {compared.champion}, and "
        f"{compared.found.lower_bound(gate.confidence):+.3f} at worst (lower bound with "
        f"{100 * gate.confidence:g} % confidence); "
        + (f"-{allowed:.3f} is allowed" if allowed else "it must be shown to be better")
    ]


def _evidence(
    figures: Mapping[str, float], gate: Gate, openings: int, best: Difference | None
) -> dict[str, Any]:
    num_images = int(figures["num_images"])
    evidence = {
        "num_images": num_images,
        "num_positive": int(figures["num_positive"]),
        "auc": figures["auc"],
        "auc_ci95": [figures["auc_low"], figures["auc_high"]],
        "auc_bound": auc_bound(figures, gate.confidence),
        "sensitivity": figures["sensitivity"],
        "confidence": gate.confidence,
        "openings": openings,
        "budget": gate.max_openings,
        "margin": margin(gate, openings),
        "difference": None,
        "bound": None,
        "images_needed": None,
        "reads_too_high_by": None,
    }
    if best is not None:
        evidence["difference"] = best.auc
        evidence["bound"] = best.lower_bound(gate.confidence)
        evidence["reads_too_high_by"] = luck_of_the_best(best.standard_error, openings)
        if gate.max_auc_drop > 0:
            evidence["images_needed"] = best.images_needed(
                num_images, margin=gate.max_auc_drop, confidence=gate.confidence
            )
    return evidence


def evidence_in_words(evidence: Mapping[str, Any]) -> list[str]:
    """Return the figures that the gate decided on, a sentence each; none where it needed none.

    Args:
        evidence: of a :class:`Judgement`.
    """
    if not evidence:
        return []
    low, high = evidence["auc_ci95"]
    confidence = f"{100 * evidence['confidence']:g} %"
    lines = [
        f"AUC {_figure(evidence['auc'])} (95 % CI {_figure(low)} to {_figure(high)}; at least "
        f"{_figure(evidence['auc_bound'])} with {confidence} confidence) and sensitivity "
        f"{_figure(evidence['sensitivity'])} on {evidence['num_images']} sealed test images, "
        f"{evidence['num_positive']} of them positive"
    ]
    if evidence["difference"] is not None:
        allowed = f"-{evidence['margin']:.3f}" if evidence["margin"] else "more than 0"
        lines.append(
            f"AUC {evidence['difference']:+.3f} against version {evidence['best_champion']}, at "
            f"least {evidence['bound']:+.3f} with {confidence} confidence; allowed: {allowed}"
        )
    return lines


def _figure(value: float | None) -> str:
    return f"{value:.3f}" if _known(value) else "unknown"


def luck_of_the_best(standard_error: float, num_models: int) -> float:
    """Return how much too high the best of some equal models reads on one test.

    Args:
        standard_error: of the difference of two of them.
        num_models: at least 1.

    Source: expected largest of normal values, Blom 1958; measured in benchmarks/gate.py.
    """
    share = (num_models - 0.375) / (num_models + 0.25)
    return max(0.0, standard_error / math.sqrt(2) * float(norm.ppf(share)))


def _notes(evidence: Mapping[str, Any], gate: Gate) -> tuple[str, ...]:
    num_images, openings = evidence["num_images"], evidence["openings"]
    test = f"{num_images} test images ({evidence['num_positive']} malignant)"
    notes = []
    needed = evidence["images_needed"]
    if needed is None:
        low, high = evidence["auc_ci95"]
        notes.append(
            f"{test} give an AUC of {evidence['auc']:.3f} (95 % interval {low:.3f} to {high:.3f})."
        )
    elif evidence["bound"] > 0:
        notes.append(
            f"On {test} its AUC is {evidence['difference']:+.3f} against version "
            f"{evidence['best_champion']}, and {evidence['bound']:+.3f} at worst: it is shown "
            "to be better."
        )
    elif needed > num_images:
        notes.append(
            f"With {test} a model as good as version {evidence['best_champion']} is often refused: "
            f"it takes about {_rounded(needed)} to promote it four times in five."
        )
    else:
        notes.append(
            f"{test} are enough to tell a model as good as version "
            f"{evidence['best_champion']} from one that is {gate.max_auc_drop:.3f} worse."
        )
    if openings > gate.max_openings:
        notes.append(
            f"The sealed test was opened {openings} times, more than max_openings "
            f"({gate.max_openings}): it is spent, and only a model that is shown to be better than "
            "the champions is promoted. New test images would allow more."
        )
    else:
        notes.append(f"The sealed test was opened {openings} of {gate.max_openings} times.")
    if evidence["reads_too_high_by"]:
        notes.append(
            "The best of several models on one test is partly the luckiest one: the test AUC of "
            f"{evidence['auc']:.3f} may be up to {evidence['reads_too_high_by']:.3f} too high."
        )
    return tuple(notes)


def _rounded(num_images: int) -> str:
    """Write a number of images with two digits that count."""
    step = 10 ** max(0, len(str(num_images)) - 2)
    return f"{math.ceil(num_images / step) * step:,}"
