import math
import re
from dataclasses import replace

import numpy as np
import optuna
import pytest

from busi_search.report.gallery import choose_images, make_gallery
from busi_search.report.importance import (
    importance_chart,
    parameter_importances,
    slice_chart,
)
from busi_search.report.rendering import render
from busi_search.report.search_charts import parallel_chart
from busi_search.report.study_view import study_page
from busi_search.run import StudyResult


def trials_of(function: object, num_trials: int) -> list[optuna.trial.FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(function, n_trials=num_trials)
    return study.get_trials()


def score(trial: optuna.Trial) -> float:
    rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
    trial.suggest_float("dropout", 0, 0.6)
    trial.suggest_categorical("balanced", [True, False])
    return math.log10(rate)


def test_what_the_score_depends_on_comes_first() -> None:
    shares = parameter_importances(trials_of(score, 30), "maximize")
    assert next(iter(shares)) == "learning_rate"
    assert shares["learning_rate"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)
    assert list(importance_chart(shares).data[0].y)[-1] == "learning_rate"


def test_few_or_equal_trials_say_nothing() -> None:
    assert parameter_importances(trials_of(score, 9), "maximize") == {}
    flat = trials_of(lambda trial: 0.0 * trial.suggest_float("x", 0, 1), 12)
    assert parameter_importances(flat, "maximize") == {}
    still = trials_of(lambda trial: trial.suggest_categorical("x", ["a"]) and trial.number, 12)
    assert parameter_importances(still, "maximize") == {}


def test_hyperparameters_that_never_moved_explain_nothing() -> None:
    study = optuna.create_study(direction="maximize")
    for _ in range(12):
        study.enqueue_trial({"x": 0.5})
    study.optimize(lambda trial: trial.number + 0 * trial.suggest_float("x", 0, 1), n_trials=12)
    assert parameter_importances(study.get_trials(), "maximize") == {}


def test_slices_show_every_complete_trial_on_the_scale_it_was_drawn_from() -> None:
    trials = trials_of(score, 12)
    figure = slice_chart(trials, "cv_auc")
    assert figure is not None
    titles = [note.text for note in figure.layout.annotations]
    assert titles == ["balanced", "dropout", "learning_rate"]
    assert all(len(points.y) == 12 for points in figure.data)
    assert set(figure.data[0].x) == {"True", "False"}
    assert [figure.layout[f"xaxis{n}"].type for n in ("", 2, 3)] == [None, None, "log"]
    assert slice_chart([], "cv_auc") is None


def test_known_systems_outside_of_the_space_hide_no_hyperparameter() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial({"learning_rate": 0.01}, user_attrs={"recipe": "a known system"})

    def known_first(trial: optuna.Trial) -> float:
        if trial.number > 0:
            return score(trial)
        trial.suggest_categorical("architecture", ["resnet18"])
        return trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)

    study.optimize(known_first, n_trials=12)
    trials = study.get_trials()
    assert set(parameter_importances(trials, "maximize")) == {
        "balanced",
        "dropout",
        "learning_rate",
    }
    lines = parallel_chart(trials, "cv_auc", "maximize")
    assert lines is not None
    assert len(lines.layout.xaxis.ticktext) == 4
    slices = slice_chart(trials, "cv_auc")
    assert slices is not None
    # What never varied says nothing.
    assert [note.text for note in slices.layout.annotations] == [
        "balanced",
        "dropout",
        "learning_rate",
    ]


def test_the_surest_errors_and_the_closest_calls_are_chosen() -> None:
    probabilities = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.45, 0.55], [0.99, 0.01]])
    wrong, unsure = choose_images(probabilities, np.array([1, 1, 1, 1, 0]))
    assert wrong.tolist() == [0, 1]
    assert unsure.tolist() == [3, 2, 4]
    many = np.tile([[0.7, 0.3]], (40, 1))
    wrong, unsure = choose_images(many, np.arange(40) % 2)
    assert (len(wrong), len(unsure)) == (12, 12)


def test_the_page_shows_them_and_stays_small(tiny_result: StudyResult) -> None:
    page = study_page(tiny_result.context.home, tiny_result.context.name)
    gallery, twins = page.split("Near-duplicates and contradictory labels</h2>")
    assert 1 <= gallery.count("<figure><img") <= 24
    assert "groups of near-duplicates" in twins
    assert "Misclassified" in page
    assert "Score over each hyperparameter" in page
    assert "is not shown: fewer than 10 trials" in page
    assert len(page) < 12_000_000
    assert not re.search(r"<(script|img|link)[^>]+(src|href)=\"https?:", page)


def test_names_are_escaped_and_a_perfect_model_shows_no_errors(tiny_result: StudyResult) -> None:
    development = tiny_result.context.development
    odd = replace(development, paths=tuple(f"<b>{n}" for n in range(len(development))))
    section = render("gallery.html", gallery=make_gallery(odd, np.eye(3)[development.labels], {}))
    assert "Misclassified: 0 of" in section
    assert "<p>None.</p>" in section
    assert "&lt;b&gt;0" in section
    assert "<b>0" not in section
