"""The top of a study's page, for the ten seconds that a clinician has."""

from collections.abc import Sequence
from dataclasses import dataclass

from busi_search.data.geometry import WHOLE
from busi_search.release.winner import Winner
from busi_search.report.elsewhere import OTHER, Place, Row, leading
from busi_search.report.in_words import (
    auc_with_interval,
    found_and_spared,
    images_of_patients,
)
from busi_search.spec import About
from busi_search.wording import count_of


@dataclass(frozen=True)
class Summary:
    """What the page says first; each attribute but the last a list of sentences.

    Attributes:
        purpose: what the model is for.
        how_good: how good it is, the sealed test first once it was opened.
        how_sure: how sure that is.
        not_for: what it must not be used for.
        tested: whether the sealed test was opened and its figures are known.
    """

    purpose: Sequence[str]
    how_good: Sequence[str]
    how_sure: Sequence[str]
    not_for: Sequence[str]
    tested: bool


def summarise(winner: Winner, about: About, places: Sequence[Place], *, openings: int) -> Summary:
    """Return the top of a study's page.

    Args:
        winner: the study's winner.
        about: what the researcher says of the study.
        places: where the model was judged, see :func:`.judged_places`.
        openings: how often images of the sealed test were opened.
    """
    test = next((place for place in places if place.kind == "test"), None)
    return Summary(
        purpose=_purpose(winner, about),
        how_good=_how_good(winner, test, places, openings),
        how_sure=[*_how_sure(winner, places, openings), *_other_hospitals(winner, places)],
        not_for=_not_for(winner, places),
        tested=test is not None,
    )


def _positive(winner: Winner) -> str:
    development = winner.context.development
    return development.class_names[development.positive]


def _purpose(winner: Winner, about: About) -> list[str]:
    name = _positive(winner)
    others = [found for found in winner.context.development.class_names if found != name]
    does = (
        f"It looks at one grey ultrasound image of the breast, gives the probability of '{name}' "
        f"(against {' and '.join(others)}), and calls the image {name} if it is "
        f"{winner.calibration.operating_point.threshold:.3f} or more. The rule for this threshold: "
        f"{winner.context.spec.operating_point.in_words(name)}."
    )
    if about.intended_use.strip():
        return [about.intended_use.strip(), does]
    return ["Research. Its authors have not stated a use in a clinic.", does]


def _how_good(
    winner: Winner, test: Place | None, places: Sequence[Place], openings: int
) -> list[str]:
    context, section = winner.context, winner.context.spec.study
    name = _positive(winner)
    validated = (
        f"In cross-validation on {images_of_patients(context, context.partition.development)} "
        f"{found_and_spared(places[0].figures, name)}; each image was predicted by a model that "
        "had seen neither it nor a near-duplicate. "
        f"{section.objective} {winner.estimate.value:.3f} "
        f"(95 % interval {winner.estimate.low:.3f} to {winner.estimate.high:.3f}), corrected for "
        "the choice among many configurations."
    )
    if test is None:
        return [_why_untested(winner, places, openings), validated]
    seen = "unseen" if not context.developed_by else "sealed"
    opened = (
        f"On {_counted(winner, test, seen)} {found_and_spared(test.figures, name)}. "
        f"{auc_with_interval(test.figures)}{_of_class(winner)}."
    )
    return [opened, validated]


def _why_untested(winner: Winner, places: Sequence[Place], openings: int) -> str:
    others = [place for place in places if place.kind == OTHER]
    if others:
        known = " and ".join(place.title.rpartition(", ")[2] for place in others)
        return (
            f"The sealed test was opened for {known}, another model of this study, not yet for "
            "this one; these figures are of cross-validation."
        )
    if not len(winner.context.partition.test):
        return "This study has no sealed test, so these figures are of cross-validation."
    if openings:
        return (
            f"Images of the sealed test were opened {count_of(openings, 'time')}, and this page "
            "has no figures of it (the model card below may); these are of cross-validation."
        )
    return "The sealed test has not been opened, so these figures are of cross-validation."


def _counted(winner: Winner, test: Place, seen: str) -> str:
    context = winner.context
    if test.figures["num_images"] != len(context.partition.test):
        return f"{test.figures['num_images']:,} {seen} images"
    counted = images_of_patients(context, context.partition.test)
    return counted.replace(" images", f" {seen} images", 1)


def _of_class(winner: Winner) -> str:
    several = len(winner.context.development.class_names) > 2
    return f" for {_positive(winner)} against all others" if several else ""


def _how_sure(winner: Winner, places: Sequence[Place], openings: int) -> list[str]:
    context, found = winner.context, []
    place = leading(places)
    if place.kind == "test":
        times = "once" if openings < 2 else f"{openings} times"
        again = "" if openings < 2 else "; every opening after the first makes the figures too good"
        found.append(f"The sealed test was opened {times}{again}.")
    if context.developed_by:
        found.append(
            f"The test is not independent: {context.test_not_independent} images show scans that "
            f"other studies of this home developed on ({', '.join(context.developed_by)})."
        )
    figures = place.figures
    known = ""
    if None not in (figures.get("auc_ci95") or (None,)):
        low, high = figures["auc_ci95"]
        known = f"; the AUC is known to about ± {(high - low) / 2:.2f}, half of its 95 % interval"
    found.append(
        f"The figures come from {figures['num_positive']:,} {_positive(winner)} and "
        f"{figures['num_images'] - figures['num_positive']:,} other images{known}."
    )
    probabilities = _probabilities(figures, _positive(winner))
    return [*found, *([probabilities] if probabilities else []), context.partition.grouping.scope]


def _probabilities(figures: Row, name: str) -> str:
    """Say whether the probabilities are right."""
    slope, ratio = figures.get("calibration_slope"), figures.get("observed_expected")
    if slope is None or ratio is None:
        return ""
    low, high = figures["calibration_slope_ci95"]
    below, above = figures["observed_expected_ci95"]
    said = []
    if high < 1:
        said.append("too extreme")
    if low > 1:
        said.append("too timid")
    if above < 1:
        said.append("too high")
    if below > 1:
        said.append("too low")
    verdict = " and ".join(said) if said else "about right"
    return (
        f"Its probabilities of {name} are {verdict} (calibration slope {slope:.2f}, {low:.2f} to "
        f"{high:.2f}; observed/expected {ratio:.2f}, {below:.2f} to {above:.2f}; both 1 at best)."
    )


def _other_hospitals(winner: Winner, places: Sequence[Place]) -> list[str]:
    elsewhere = [place for place in places if place.kind == "elsewhere"]
    if not elsewhere:
        return [
            "It was not evaluated on images from another hospital; models usually do worse there "
            "than on their own test."
        ]
    name = _positive(winner)
    return [
        f"On {place.figures['num_images']:,} images of {place.data['name']} "
        f"{found_and_spared(place.figures, name)}. {auc_with_interval(place.figures)}."
        for place in elsewhere
    ]


def _not_for(winner: Winner, places: Sequence[Place]) -> list[str]:
    found = [
        "It is not a medical device. It must not be used to diagnose, or to decide about a "
        "biopsy, treatment or follow-up of a patient."
    ]
    if winner.context.development.simulated:
        found.insert(0, "It was trained on simulated images: its answers mean nothing for patients")
        found[0] += "."
    if any(place.kind == "elsewhere" for place in places):
        found.append("Not at a hospital before it was evaluated on images from there.")
    else:
        found.append("Not for images of other hospitals or machines: it was tested on none.")
    geometry = winner.context.geometry(winner.hyperparameters)
    if geometry != WHOLE and geometry.needs_lesion:
        found.append("Not for images without a marked lesion: it must be told where the lesion is.")
    found.append(
        "Only for such images: it gives an answer for any picture, even one that is not "
        "ultrasound, and it knows neither the patient's history nor a second view."
    )
    return found
