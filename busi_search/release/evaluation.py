"""The sealed test: opened on request, counted, and reported with intervals."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from sklearn.metrics import confusion_matrix

from busi_search.data.ledger import FILE_NAME, append_to_ledger, num_openings, read_ledger
from busi_search.data.sealed import open_sealed_test
from busi_search.errors import InputError
from busi_search.home import Home
from busi_search.release.predict import Classifier, load_champion
from busi_search.release.registry import (
    CANDIDATE,
    MODEL_NAME,
    RELEASED,
    Decision,
    Gate,
    RegisteredVersion,
    check_force,
    current_champion,
    find_version,
    log_evaluation,
    promote,
)
from busi_search.search.context import StudyContext, reopen_study
from busi_search.search.pruning import auc_influence
from busi_search.search.storage import find_study
from busi_search.training import metrics
from busi_search.training.weighted_metrics import group_weights, weighted_metric

NUM_BOOTSTRAPS = 2000
RELIABILITY_BINS = 10
DECISION_THRESHOLDS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5)
WITH_INTERVALS = (
    "auc",
    "aupr",
    "accuracy",
    "balanced_accuracy",
    "precision",
    "recall",
    "f1",
    "log_loss",
    "brier",
    "ece",
)


@dataclass(frozen=True)
class TestReport:
    """What one model scored on the sealed test.

    Attributes:
        version: the model.
        openings: how often the test was opened so far, this time included.
        figures: of all test images.
        figures_without_twins: of the images without a near-duplicate in the development part;
            None where there are no twins.
        against_champion: paired comparison with the champion on the same images, or None.
    """

    version: RegisteredVersion
    openings: int
    figures: dict[str, Any]
    figures_without_twins: dict[str, Any] | None
    against_champion: dict[str, Any] | None

    def to_json(self) -> dict[str, Any]:
        """Return the report as ``busi-search evaluate --json`` prints it."""
        result: dict[str, Any] = {
            "model": {
                "name": self.version.name,
                "version": self.version.version,
                "run_id": self.version.run_id,
            },
            "openings": self.openings,
            "test": self.figures,
        }
        if self.figures_without_twins is not None:
            result["test_without_twins"] = self.figures_without_twins
        if self.against_champion is not None:
            result["against_champion"] = self.against_champion
        return result


def delong_interval(
    probabilities: npt.NDArray[np.floating], labels: npt.NDArray[np.integer], *, positive: int
) -> tuple[float, float]:
    """Return DeLong's 95 % interval of the (macro) AUC, on the logit scale.

    Args:
        probabilities: (N, C).
        labels: (N,) integers.
        positive: the class reported for C = 2.

    Source: DeLong et al. 1988, 10.2307/2531595.
    """
    num_classes = probabilities.shape[1]
    classes = [positive] if num_classes == 2 else list(range(num_classes))
    influence = np.mean([auc_influence(probabilities[:, c], labels == c) for c in classes], axis=0)
    area = metrics.auc(probabilities, labels, positive=positive)
    error = float(np.sqrt(np.sum(influence**2))) / len(labels)
    if not 0 < area < 1:
        return (area, area)
    centre, width = math.log(area / (1 - area)), norm.ppf(0.975) * error / (area * (1 - area))
    low, high = (1 / (1 + math.exp(-(centre + sign * width))) for sign in (-1, 1))
    return (low, high)


def test_figures(
    probabilities: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    class_names: tuple[str, ...],
    positive: int,
    threshold: float,
) -> dict[str, Any]:
    """Return every figure of a test report, with 95 % intervals from a group bootstrap.

    Args:
        probabilities: (N, C), calibrated.
        labels: (N,) integers.
        groups: (N,) groups that are resampled whole.
        class_names: C names.
        positive: the class (malignant) that operating point and decision curve are about.
        threshold: operating point, chosen elsewhere.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    figures: dict[str, Any] = {"num_images": len(labels), "num_groups": len(np.unique(groups))}
    values = metrics.compute_metrics(rows, labels, positive=positive)
    drawn = group_weights(groups, num_bootstraps=NUM_BOOTSTRAPS, rng=np.random.default_rng(0))
    for name in WITH_INTERVALS:
        figures[name] = values[name]
        sample = weighted_metric(name, rows, labels, drawn, positive=positive)
        figures[f"{name}_ci95"] = _percentiles(sample)
    figures["auc_delong_ci95"] = list(delong_interval(rows, labels, positive=positive))
    scores, truth = rows[:, positive], labels == positive
    called = scores >= threshold
    figures["operating_threshold"] = threshold
    figures["positive_class"] = class_names[positive]
    for name, kind in (("sensitivity", truth), ("specificity", ~truth)):
        right = (called == truth).astype(float)
        figures[name] = float(right[kind].mean())
        inside = drawn[:, kind]
        with np.errstate(invalid="ignore"):
            figures[f"{name}_ci95"] = _percentiles((inside @ right[kind]) / inside.sum(axis=1))
    predicted = rows.argmax(axis=1)
    table = confusion_matrix(labels, predicted, labels=list(range(len(class_names))))
    figures["confusion"] = table.tolist()
    figures["per_class"] = _per_class(table, rows, labels, class_names)
    figures["reliability"] = _reliability(rows, labels)
    figures["decision_curve"] = _decision_curve(scores, truth)
    return figures


def _percentiles(sample: npt.NDArray[np.float64]) -> list[float]:
    finite = sample[np.isfinite(sample)]
    return [float(value) for value in np.quantile(finite, [0.025, 0.975])]


def _per_class(
    table: npt.NDArray[np.integer],
    rows: npt.NDArray[np.float64],
    labels: npt.NDArray[np.integer],
    class_names: tuple[str, ...],
) -> dict[str, dict[str, float]]:
    result = {}
    for c, name in enumerate(class_names):
        hits, truth, predicted = table[c, c], table[c].sum(), table[:, c].sum()
        others = table.sum() - truth
        result[name] = {
            "num_images": int(truth),
            "auc": metrics.binary_auc(rows[:, c], labels == c),
            "recall": float(hits / truth) if truth else math.nan,
            "precision": float(hits / predicted) if predicted else 0.0,
            "specificity": float((others - predicted + hits) / others) if others else math.nan,
            "f1": float(2 * hits / (truth + predicted)) if truth + predicted else 0.0,
        }
    return result


def _reliability(
    rows: npt.NDArray[np.float64], labels: npt.NDArray[np.integer]
) -> list[dict[str, float]]:
    """Mean confidence and accuracy of the most probable class, by bins of confidence."""
    confidence, correct = rows.max(axis=1), rows.argmax(axis=1) == labels
    bins = np.clip((confidence * RELIABILITY_BINS).astype(int), 0, RELIABILITY_BINS - 1)
    return [
        {
            "num_images": int(np.sum(bins == b)),
            "confidence": float(confidence[bins == b].mean()),
            "accuracy": float(correct[bins == b].mean()),
        }
        for b in range(RELIABILITY_BINS)
        if np.any(bins == b)
    ]


def _decision_curve(
    scores: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]
) -> list[dict[str, float]]:
    """Net benefit of acting on the model, and of acting on everyone (Vickers & Elkin 2006)."""
    curve = []
    for threshold in DECISION_THRESHOLDS:
        odds = threshold / (1 - threshold)
        called = scores >= threshold
        benefit = np.mean(called & truth) - odds * np.mean(called & ~truth)
        everyone = np.mean(truth) - odds * np.mean(~truth)
        curve.append(
            {"threshold": threshold, "net_benefit": float(benefit), "act_on_all": float(everyone)}
        )
    return curve


def paired_difference(
    candidate: npt.NDArray[np.floating],
    champion: npt.NDArray[np.floating],
    labels: npt.NDArray[np.integer],
    groups: npt.NDArray[np.integer],
    *,
    positive: int,
) -> dict[str, Any]:
    """Compare two models' AUC on the same images by a paired group bootstrap.

    Returns:
        ``auc_difference`` (candidate minus champion), ``ci95``, and ``probability_worse``.
    """
    drawn = group_weights(groups, num_bootstraps=NUM_BOOTSTRAPS, rng=np.random.default_rng(0))
    pair = [np.asarray(rows, dtype=np.float64) for rows in (candidate, champion)]
    samples = [weighted_metric("auc", rows, labels, drawn, positive=positive) for rows in pair]
    difference = samples[0] - samples[1]
    difference = difference[np.isfinite(difference)]
    values = [metrics.auc(rows, labels, positive=positive) for rows in pair]
    return {
        "auc_difference": values[0] - values[1],
        "ci95": _percentiles(difference),
        "probability_worse": float(np.mean(difference < 0)),
    }


def evaluate_sealed_test(home: Home, study_name: str, *, version: str | None = None) -> TestReport:
    """Open the sealed test for a study's model and say what it scores.

    The temperature and the operating point were fixed on out-of-fold predictions and travel inside
    the model; nothing is chosen here. If the champion was made on the same division of the same
    data, both are compared on the same images, in the same opening.

    Args:
        home: where the stores are.
        study_name: whose test.
        version: of the model (default: what the study registered last).

    Raises:
        InputError: the study has no model, or its data is gone or changed.
        BusiSearchError: the ledger was tampered with.
    """
    study = find_study(home, study_name)
    released = study.user_attrs.get(RELEASED)
    if version is None:
        if released is None:
            raise InputError(f"Study '{study_name}' has registered no model yet; finish it first.")
        version = str(released["version"])
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
    probabilities = classifier.predict_pixels(test.images)

    def figures(keep: npt.NDArray[np.bool_]) -> dict[str, Any]:
        return test_figures(
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
    report = TestReport(chosen, num_openings(ledger), figures(everyone), without, against)
    _record(home, context, report, probabilities, test.paths)
    return report


def _against_champion(
    home: Home,
    context: StudyContext,
    classifier: Classifier,
    chosen: RegisteredVersion,
    probabilities: npt.NDArray[np.float32],
) -> dict[str, Any] | None:
    """Compare with the champion, if it never saw these test images either."""
    champion = current_champion(home, name=chosen.name)
    if champion is None or champion.version == chosen.version:
        return None
    if champion.tags.get("busi.partition") != context.partition.digest():
        return {
            "champion": champion.version,
            "comparable": False,
            "reason": "the champion was made on another division or other data; it may have been "
            "trained on these test images",
        }
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
        other.predict_pixels(test.images),
        test.labels,
        test.groups,
        positive=context.development.positive,
    )
    return {"champion": champion.version, "comparable": True, **difference}


def ledger_path(home: Home, study_name: str) -> Path:
    """Return where the ledger of a study's sealed test is kept."""
    return home.study_folder(study_name) / FILE_NAME


def _record(
    home: Home,
    context: StudyContext,
    report: TestReport,
    probabilities: npt.NDArray[np.float32],
    paths: tuple[str, ...],
) -> None:
    """Write the figures into the ledger, the model version's tags and the study run."""
    short: Mapping[str, Any] = {
        name: report.figures[name]
        for name in ("num_images", "auc", "auc_ci95", "accuracy", "sensitivity", "specificity")
    }
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


def promote_after_evaluation(
    home: Home,
    *,
    version: str | None = None,
    name: str = MODEL_NAME,
    gate: Gate | None = None,
    force: bool = False,
    reason: str | None = None,
) -> Decision:
    """Promote a version, evaluating it first where the gate needs figures that are not there.

    Args: as :func:`busi_search.release.registry.promote`.

    Raises:
        InputError: no such version, ``force`` without a reason, or the test cannot be opened.
        GateRefused: the gate says no; nothing was promoted.
    """
    check_force(force, reason)
    chosen = find_version(home, version or CANDIDATE, name=name)
    champion = current_champion(home, name=name)
    compared = json.loads(chosen.tags.get("busi.against_champion", "{}")).get("champion")
    missing = "busi.test_auc" not in chosen.tags or (
        champion is not None and compared != champion.version
    )
    is_champion = champion is not None and champion.version == chosen.version
    if missing and not (chosen.simulated or force or is_champion):
        evaluate_sealed_test(home, chosen.tags["busi.study"], version=chosen.version)
    return promote(home, version=chosen.version, name=name, gate=gate, force=force, reason=reason)
