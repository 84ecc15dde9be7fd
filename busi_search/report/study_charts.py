"""The charts of a study's page, by name and in their order."""

from collections.abc import Sequence

import plotly.graph_objects as go

from busi_search.release.selection import pareto_front
from busi_search.release.winner import Winner
from busi_search.report import charts, curve_charts, search_charts
from busi_search.report.elsewhere import Place
from busi_search.report.importance import (
    importance_chart,
    parameter_importances,
    slice_chart,
)
from busi_search.search.sampler_view import with_expected_values
from busi_search.search.store.records import folds_begun, is_finished
from busi_search.search.store.study_record import LearningCurve

# What each chart shows and in which unit, by its name; wide ones are scrolled on a phone.
CAPTIONS = {
    "history": "The score (no unit) of every finished trial, in the order of the trials. Crosses "
    "mark trials that were stopped early, at their predicted final score.",
    "savings": "Folds trained (blue) and saved (grey) of each finished trial. A fold is one "
    "training of a model.",
    "pareto": "Complete trials by two objectives; no trial is better in both than one on the "
    "front.",
    "parallel": "A line is a trial; the darker, the better its score (for trials stopped early: "
    "the predicted one), which stands on the last axis. The lowest and highest value of each "
    "hyperparameter stand at its axis. Known systems with settings outside of the space are not "
    "drawn.",
    "importances": "Share of the variance of the score (0 to 1) that a hyperparameter explains, "
    "with trials stopped early at their predicted score: what mattered in this search, not what "
    "matters in general.",
    "slices": "The score over one hyperparameter each, on the scale it was drawn from. Grey: "
    "trials stopped early, at their predicted score.",
    "learning_curves": "Training loss (nats per image) and AUC on the held-out fold (0 to 1) over "
    "epochs. No epoch is chosen by it; where predictions are averaged over several "
    "views of an image, only its last point is.",
    "roc": "Sensitivity over the share of false alarms as the threshold falls. The diamonds are "
    "the operating point. Out of fold, every image is predicted by a model that saw neither it nor "
    "a near-duplicate.",
    "precision_recall": "Of the images called positive, which share is (precision), over the share "
    "of positives found (recall). A dotted line is what chance gives: the share of positives in "
    "that set.",
    "reliability": "Above: the share of positives over the predicted probability, by fifths of the "
    "images, with 95 % intervals; below the diagonal probabilities are too high, above it too low. "
    "Below: how many images get which probability, in the set that leads this page. Probabilities "
    "are calibrated, out of fold each fold's by the temperature of the other folds.",
    "decision": "Net benefit of acting on the model, in true positives per image: false alarms "
    "are subtracted, each counting t / (1 − t) at the threshold t. The model is worth using where "
    "its line is above both acting on everyone and acting on nobody. The band is the 95 % "
    "interval of the first set, of groups of images drawn whole.",
    "operating": "How many positives are found (sensitivity) and how many others are cleared "
    "(specificity), over the threshold, out of fold. The operating point was chosen on these "
    "images, so expect a little less.",
    "confusion": "Number of images by true class (rows) and call at the operating point (columns); "
    "percentages are of the row, so that those of the positive class are its sensitivity.",
    "class_roc": "Each class against all others as the threshold falls, all folds pooled, "
    "probabilities calibrated.",
    "class_confusion": "Number of images by true class (rows) and most probable class (columns), "
    "all folds pooled; percentages are of the row.",
    "growth": "The winner's configuration, trained on a random share of the groups of each fold's "
    "training part and evaluated on the whole held-out part. Bars are the worst and the best of "
    "several draws; the last point has all images. Not corrected for the choice of the "
    "configuration. A line that still rises at its end says that more images would help.",
}
WIDE = frozenset({"parallel", "slices"})


def report_charts(
    winner: Winner, places: Sequence[Place], growth: LearningCurve | None
) -> dict[str, go.Figure]:
    """Return the charts of a study's page by name, in their order.

    Args:
        winner: the study's winner.
        places: where its model was judged, see :func:`.judged_places`.
        growth: how its score grows with images, if that was measured.
    """
    grown = {} if growth is None else {"growth": curve_charts.growth_chart(growth)}
    return performance_charts(winner, places) | grown | search_charts_of(winner)


def search_charts_of(winner: Winner) -> dict[str, go.Figure]:
    """Return the charts of the search, and of the winner's training over epochs."""
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
    if any(len(fold.train_loss) > 1 for fold in winner.folds):
        found["learning_curves"] = charts.learning_curves_chart(winner.folds)
    return found


def performance_charts(winner: Winner, places: Sequence[Place]) -> dict[str, go.Figure]:
    """Return the charts of how well the model does, by name."""
    development = winner.context.development
    labels, positive, names = development.labels, development.positive, development.class_names
    found = dict(curve_charts.by_name(places, names[positive]))
    found["operating"] = charts.operating_chart(
        winner.calibrated[:, positive],
        labels == positive,
        winner.calibration.operating_point,
        names[positive],
    )
    if len(names) > 2:
        rows = winner.cross_fitted
        found["class_roc"] = charts.class_roc_chart(rows, labels, names)
        found["class_confusion"] = charts.class_confusion_chart(rows, labels, names)
    return found
