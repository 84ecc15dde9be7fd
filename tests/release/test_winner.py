import copy
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from busi_search.release import winner as winner_module
from busi_search.release.choice import choice_rule
from busi_search.release.descriptions import describe_version, warn_of_objective
from busi_search.release.winner import find_winner
from busi_search.report.study_result import StudyResult
from busi_search.run import run_study
from busi_search.search import objective
from busi_search.search.cross_validation import TrainingDiverged
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.store.fold_records import stored_folds
from busi_search.search.store.records import cv_metrics
from busi_search.training.metrics import compute_metrics, softmax
from tests.conftest import TINY


def test_a_winner_holds_its_folds_in_order_and_says_the_same_each_time(
    tiny_result: StudyResult,
) -> None:
    context = tiny_result.context
    winner = find_winner(context, tiny_result.progress.trials)
    assert winner is not None
    assert tiny_result.release is not None
    assert winner.number == tiny_result.release.trial
    assert [fold.fold for fold in winner.folds] == [0, 1, 2]
    for fold in winner.folds:
        rows = winner.probabilities[context.partition.folds[fold.fold].validation]
        np.testing.assert_array_equal(rows, softmax(fold.log_probabilities))
    assert winner.estimates == tiny_result.release.estimates
    assert winner.calibration is winner.calibration
    assert find_winner(context, []) is None


def test_a_release_calibrates_and_estimates_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The winner is registered, explained and reported; its folds are put together once."""
    calls = list[str]()

    def counted(name: str) -> None:
        original = getattr(winner_module, name)

        def call(*args: object, **options: object) -> object:
            calls.append(name)
            return original(*args, **options)

        monkeypatch.setattr(winner_module, name, call)

    names = ("fit_temperature", "choose_operating_point", "estimate_scores", "gather_out_of_fold")
    for name in names:
        counted(name)
    overrides = (*TINY, "pruner='none'")
    result = run_study(
        "quickstart", trials=2, home=tmp_path, overrides=overrides, device="cpu", inline=True
    )
    assert result.release is not None
    assert result.release.new
    assert [calls.count(name) for name in names[:3]] == [1, 1, 1]
    # Of the winner, and of each of the two trials that the estimate compares.
    assert calls.count("gather_out_of_fold") == 3


def test_a_second_metric_decides_although_a_trial_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pruned trial has no values; what it has of the second metric stands in its folds."""
    original = objective.cross_validate

    def diverging(*args: Any, trial_number: int, **options: Any) -> Iterator[Look | FoldResult]:
        for step in original(*args, trial_number=trial_number, **options):
            yield step
            if trial_number == 1 and isinstance(step, FoldResult):
                raise TrainingDiverged("the loss is not finite")

    monkeypatch.setattr(objective, "cross_validate", diverging)
    overrides = (
        *TINY,
        "objective=['cv_auc', 'cv_ece']",
        "winner='one_standard_error'",
        "pruner='none'",
    )
    result = run_study(
        "quickstart", trials=4, home=tmp_path, overrides=overrides, device="cpu", inline=True
    )
    assert (result.progress.complete, result.progress.pruned) == (3, 1)
    release, trials = result.release, result.progress.trials
    assert release is not None
    costs, tolerance = choice_rule(trials, result.context.spec.study)
    assert costs is not None
    (fold,) = stored_folds(trials[1], 3).values()
    assert costs[1] == fold.metrics["ece"]
    complete = [trial for trial in trials if trial.values]
    assert [costs[trial.number] for trial in complete] == [trial.values[1] for trial in complete]
    best = max(trial.values[0] for trial in complete)
    near = [trial for trial in complete if trial.values[0] >= best - tolerance]
    assert release.trial == min(near, key=lambda trial: trial.values[1]).number
    assert release.estimates["auc"].naive == trials[release.trial].values[0]


def test_the_calibrated_figures_are_of_predictions_with_the_temperature_of_other_folds(
    tiny_result: StudyResult,
) -> None:
    release, context = tiny_result.release, tiny_result.context
    winner = find_winner(context, tiny_result.progress.trials)
    assert release is not None
    assert winner is not None
    labels, folds = context.development.labels, context.partition.folds
    own = [
        compute_metrics(winner.cross_fitted[fold.validation], labels[fold.validation])["log_loss"]
        for fold in folds
    ]
    assert release.estimates["calibrated_log_loss"].naive == pytest.approx(np.mean(own))
    # Those of the trial as it was trained keep their name and meaning.
    assert release.estimates["log_loss"].naive == pytest.approx(winner.metrics["cv_log_loss"])
    printed = tiny_result.to_json()
    assert "cv_calibrated_log_loss" in printed["corrected"]["metrics"]
    assert printed["calibration"]["temperature"] == winner.calibration.temperature
    slope = winner.calibration_figures["calibration_slope"]
    assert printed["calibration"]["calibration_slope"] == slope.value
    assert f"slope {slope:.2f}" in describe_version(winner)


def test_figures_that_a_temperature_changes_are_the_winners_own_where_they_chose_it(
    tiny_result: StudyResult,
) -> None:
    """Among calibrated trials another might have won."""
    context = tiny_result.context
    section = context.spec.study.model_copy(update={"objective": "cv_log_loss"})
    spec = context.spec.model_copy(update={"study": section})
    trials = [copy.deepcopy(trial) for trial in tiny_result.progress.trials]
    for trial in trials:
        if trial.values:
            trial.values = [cv_metrics(list(stored_folds(trial, 3).values()))["cv_log_loss"]]
    winner = find_winner(replace(context, spec=spec), trials)
    assert winner is not None
    found = winner.estimates["calibrated_log_loss"]
    assert found.value == pytest.approx(found.naive)
    assert found.low < found.value < found.high


def test_choosing_by_the_binned_error_is_warned_of(tiny_result: StudyResult) -> None:
    context = tiny_result.context
    assert warn_of_objective(context) is None
    section = context.spec.study.model_copy(update={"objective": "cv_ece"})
    warned = warn_of_objective(
        replace(context, spec=context.spec.model_copy(update={"study": section}))
    )
    assert warned is not None
    assert "on folds of" in warned
    (noise,) = re.findall(r"about (0\.\d\d)", warned)
    assert 0.1 < float(noise) < 0.3
