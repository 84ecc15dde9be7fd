"""The charts of a study's page, by name and in their order."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from busi_search.release.calibration_figures import calibration_curve
from busi_search.release.selection import pareto_front
from busi_search.release.winner import Winner
from busi_search.report import charts, search_charts
from busi_search.report.importance import (
    importance_chart,
    parameter_importances,
    slice_chart,
)
from busi_search.search.sampler_view import with_expected_values
from busi_search.search.seal_ledger import SealLedger
from busi_search.search.store.records import folds_begun, is_finished

# What each chart shows and in which unit, by its name; wide ones are scrolled on a phone.
CAPTIONS = {
    "history": "Every finished trial: its score (no unit), in the order of the trials. A cross is "
    "a trial that was given up; its score is the one to be expected of it from what it had shown.",
    "savings": "Folds trained (blue) and spared (grey) of each finished trial. A fold is one "
    "training of a model.",
    "pareto": "Complete trials by two objectives; no trial is better in both than one on the "
    "front.",
    "parallel": "A line is a trial; the darker, the better its score (of one given up: the one to "
    "be expected), which stands on the last axis. Lowest and highest value of each hyperparameter "
    "stand at its axis. Known systems with settings outside of the space are not drawn.",
    "importances": "Share of the variance of the score (0 to 1) that a hyperparameter explains, "
    "trials given up at the score to be expected of them: what mattered in this search, not what "
    "matters in general.",
    "slices": "The score over one hyperparameter each, on the scale it was drawn from. Grey: "
    "trials given up, at the score to be expected of them.",
    "learning_curves": "Training loss (nats per image) and AUC on the held-out fold (0 to 1) over "
    "epochs. No epoch is chosen by it; where predictions are averaged over several "
    "views of an image, only its last point is.",
    "roc": "Sensitivity over the share of false alarms as the threshold falls, all folds pooled. "
    "Every image is judged by a model that saw neither it nor a near-duplicate.",
    "precision_recall": "Of the images called positive, which share is (precision), over the share "
    "of positives found (recall), all folds pooled. Chance is the share of the class.",
    "reliability": "Share of positives over the predicted probability, by fifths of the images, "
    "with 95 % intervals. Below the diagonal probabilities are too high, above it too low. "
    "Out-of-fold predictions as trained, and each fold's with the temperature of the other folds; "
    "the sealed test of the registered model once it was opened.",
    "operating": "How many positives are found (sensitivity) and how many others are spared "
    "(specificity), over the threshold. The operating point was chosen on these images, so expect "
    "a little less.",
    "confusion": "Number of images by true class (rows) and most probable class (columns).",
}
WIDE = frozenset({"parallel", "slices"})
# The chart that each section of charts begins with.
SECTIONS = {"history": "The search", "learning_curves": "The winner's training and predictions"}


def report_charts(winner: Winner) -> dict[str, go.Figure]:
    """Return the charts of a study's page by name, in their order."""
    return _search_charts(winner) | _winner_charts(winner)


def _search_charts(winner: Winner) -> dict[str, go.Figure]:
    section, trials = winner.context.spec.study, winner.trials
    num_folds = len(winner.context.partition.folds)
    objective, direction = section.objective, section.direction
    trained = {t.number: folds_begun(t, num_folds) for t in trials if is_finished(t)}
    scored = with_expected_values(
        trials, metric=section.metric, running_means=section.reports_running_means
    )
    found = {
        "history": search_charts.history_chart(scored, objective, direction),
        "savings": search_charts.savings_chart(trained, num_folds),
    }
    if section.further_objectives:
        front = pareto_front(trials, section)
        found["pareto"] = search_charts.pareto_chart(trials, front, section.objectives)
    parallel = search_charts.parallel_chart(scored, objective, direction)
    if parallel is not None:
        found["parallel"] = parallel
    shares = parameter_importances(scored, direction)
    if shares:
        found["importances"] = importance_chart(shares)
    slices = slice_chart(scored, objective)
    if slices is not None:
        found["slices"] = slices
    return found


def _winner_charts(winner: Winner) -> dict[str, go.Figure]:
    development = winner.context.development
    labels, positive, names = development.labels, development.positive, development.class_names
    rows = winner.probabilities
    return {
        "learning_curves": charts.learning_curves_chart(winner.folds),
        "roc": charts.roc_chart(rows, labels, names, positive),
        "precision_recall": charts.precision_recall_chart(rows, labels, names, positive),
        "reliability": charts.reliability_chart(_calibration_curves(winner), names[positive]),
        "operating": charts.operating_chart(
            winner.calibrated[:, positive],
            labels == positive,
            winner.calibration.operating_point,
            names[positive],
        ),
        "confusion": charts.confusion_chart(rows, labels, names),
    }


def _calibration_curves(winner: Winner) -> dict[str, Sequence[Mapping[str, float]]]:
    """Return what the calibration chart shows, by name; of the test what the ledger has last."""
    context = winner.context
    positive = context.development.positive
    truth = context.development.labels == positive
    curves: dict[str, Sequence[Mapping[str, float]]] = {
        name: calibration_curve(rows[:, positive], truth, context.groups)
        for name, rows in (
            ("as trained", winner.probabilities),
            ("with temperature", winner.cross_fitted),
        )
    }
    entries = SealLedger(context.home, context.name).entries()
    latest = [entry for entry in entries if "calibration_curve" in entry][-1:]
    return curves | {f"sealed test, version {e['version']}": e["calibration_curve"] for e in latest}
