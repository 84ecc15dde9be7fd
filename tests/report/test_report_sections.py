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
from busi_search.report.reopened import reopen_winner, study_page
from busi_search.report.search_charts import parallel_chart
from busi_search.report.study_result import StudyResult


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


def test_missed_images_come_first_and_a_group_is_shown_once() -> None:
    # Of malignant (class 1), at a threshold of 0.3; images 0 and 1 show one lesion.
    ill = np.array([0.02, 0.05, 0.10, 0.9, 0.31, 0.8, 0.6, 0.2])
    rest = 1 - ill
    probabilities = np.stack([rest * 0.7, ill, rest * 0.3], axis=1)
    labels = np.array([1, 1, 1, 1, 1, 0, 2, 2])
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 6])
    found = choose_images(
        probabilities, labels, ill >= 0.3, positive=1, threshold=0.3, groups=groups
    )
    assert (found.num_missed, found.num_alarms, found.num_mixed) == (3, 2, 1)
    assert found.missed.tolist() == [0, 2]
    assert found.alarms.tolist() == [5, 6]
    # A normal image whose most probable class is benign.
    assert found.mixed.tolist() == [7]
    assert found.unsure.tolist() == [4, 3]
    assert sorted(found.shown) == [0, 2, 3, 4, 5, 6, 7]
    many = choose_images(
        np.tile([[0.7, 0.3]], (40, 1)), np.arange(40) % 2, np.zeros(40, dtype=bool),
        positive=1, threshold=0.5, groups=np.arange(40),
    )  # fmt: skip
    assert (len(many.missed), many.num_missed, len(many.alarms)) == (12, 20, 0)


def test_the_page_shows_them_and_stays_small(tiny_result: StudyResult) -> None:
    page = study_page(tiny_result.context.home, tiny_result.context.name)
    gallery, twins = page.split("Near-duplicates and contradictory labels</h2>")
    assert 1 <= gallery.count("<figure><img") <= 48
    assert "groups of near-duplicates" in twins
    assert "Missed: " in page
    assert "Score over each hyperparameter" in page
    assert "is not shown: fewer than 10 trials" in page
    assert len(page) < 12_000_000
    assert not re.search(r"<(script|img|link)[^>]+(src|href)=\"https?:", page)


def test_names_are_escaped_and_a_perfect_model_shows_no_errors(tiny_result: StudyResult) -> None:
    winner = reopen_winner(tiny_result.context.home, tiny_result.context.name)
    development = winner.context.development
    odd = replace(development, paths=tuple(f"<b>{n}" for n in range(len(development))))
    perfect = replace(winner, context=replace(winner.context, development=odd))
    # What is computed once is kept under these names.
    perfect.__dict__["cross_fitted"] = np.eye(3)[odd.labels]
    perfect.__dict__["cross_fitted_called"] = odd.labels == odd.positive
    section = render("gallery.html", gallery=make_gallery(perfect, {}))
    assert "Missed: 0 of" in section
    assert "False alarms: 0 of" in section
    assert section.count("<p>None.</p>") == 3
    assert "&lt;b&gt;" in section
    assert "<b>0" not in section
