from pathlib import Path

import numpy as np
import pytest

from busi_search.release import winner as winner_module
from busi_search.release.winner import find_winner
from busi_search.run import StudyResult, run_study
from busi_search.training.metrics import softmax
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
