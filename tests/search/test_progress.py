from types import SimpleNamespace
from typing import cast

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from busi_search.search import progress
from busi_search.search.context import StudyContext
from busi_search.search.progress import ProgressMeter
from busi_search.search.store.fold_records import fold_key
from busi_search.search.store.records import UNFINISHED_FOLD, UnfinishedFold

CONTEXT = cast(
    StudyContext,
    SimpleNamespace(
        partition=SimpleNamespace(folds=range(5)),
        spec=SimpleNamespace(
            study=SimpleNamespace(direction="maximize"), configurations=lambda *_names: []
        ),
    ),
)


def a_trial(
    number: int, state: TrialState, *, folds: int, value: float | None = None
) -> FrozenTrial:
    stored = {fold_key(fold): {} for fold in range(folds)}
    trial = create_trial(state=state, value=value, user_attrs=stored)
    trial.number = number
    return trial


def complete(number: int, value: float) -> FrozenTrial:
    return a_trial(number, TrialState.COMPLETE, folds=5, value=value)


def test_a_search_is_measured_as_if_for_the_first_time() -> None:
    running, pruned = TrialState.RUNNING, a_trial(2, TrialState.PRUNED, folds=1)
    pruned.set_user_attr(UNFINISHED_FOLD, UnfinishedFold(1, 3, 0.7).encode())
    steps = [
        [complete(0, 0.8)],
        [complete(0, 0.8), a_trial(1, running, folds=2), pruned],
        [complete(0, 0.8), a_trial(1, running, folds=4), pruned, complete(3, 0.9)],
        # Trial 1 ends with what trial 3 has: the earlier one leads.
        [complete(0, 0.8), complete(1, 0.9), pruned, complete(3, 0.9)],
        [
            *(complete(0, 0.8), complete(1, 0.9), pruned, complete(3, 0.9)),
            *(a_trial(4, TrialState.FAIL, folds=1), a_trial(5, TrialState.WAITING, folds=0)),
        ],
    ]
    meter = ProgressMeter(CONTEXT, 10, steps[0])
    expected = [
        # complete, pruned, failed, running, folds trained, folds saved, the best
        (1, 0, 0, 0, 5, 0, 0),
        (1, 1, 0, 1, 9, 3, 0),
        (2, 1, 0, 1, 16, 3, 3),
        (3, 1, 0, 0, 17, 3, 1),
        (3, 1, 1, 0, 18, 3, 1),
    ]
    for trials, figures in zip(steps, expected, strict=True):
        for measured in (meter, ProgressMeter(CONTEXT, 10, trials)):
            now = measured.measure(trials, workers=2)
            assert now.best is not None
            assert figures == (
                now.complete, now.pruned, now.failed, now.running,
                now.folds_trained, now.folds_saved, now.best.number,
            )  # fmt: skip
    assert meter.before == 1


def test_what_has_ended_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        progress, "folds_begun", lambda trial, _num_folds: seen.append(trial.number) or 1
    )
    trials = [complete(number, 0.5) for number in range(6)]
    trials[4] = a_trial(4, TrialState.RUNNING, folds=1)
    meter = ProgressMeter(CONTEXT, 10, trials)
    assert seen == list(range(6))
    meter.measure(trials, workers=1)
    assert seen[6:] == [4, 5]
    trials[4] = complete(4, 0.5)
    for _ in range(2):
        meter.measure(trials, workers=1)
    assert seen[8:] == [4, 5]


def test_the_time_left_does_not_count_what_came_before_the_first_folds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    old = complete(0, 0.5)
    meter = ProgressMeter(CONTEXT, 5, [old])
    left = []
    # A minute of preparations, then two workers, each with a fold every four seconds.
    for clock.now, folds, other in ((30, 0, 0), (62, 1, 0), (62.5, 1, 1), (66, 2, 1), (68, 3, 2)):
        trials = [old] + [
            a_trial(1 + index, TrialState.RUNNING, folds=finished)
            for index, finished in enumerate((folds, other))
        ]
        left.append(meter.measure(trials, workers=2).remaining_seconds)
    after = progress.REPORT_SECONDS
    assert left == [None, None, None, 4 / 2 * (25 - 8) + after, 6 / 4 * (25 - 10) + after]


def test_the_time_left_runs_down_evenly_while_little_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    meter = ProgressMeter(CONTEXT, 20, [])
    meter.measure([a_trial(0, TrialState.RUNNING, folds=1)], workers=1)
    left = []
    for number, clock.now in enumerate((40.0, 90.0, 140.0, 190.0), start=1):
        trials = [complete(index, 0.5) for index in range(number)]
        left.append(meter.measure(trials, workers=1).remaining_seconds)
    # 10 s a fold at first, then 10 s again: it never climbs.
    assert left == sorted(left, reverse=True)
    clock.now = 600.0
    slower = meter.measure(trials, workers=1).remaining_seconds
    assert slower is not None
    assert left[-1] is not None
    assert slower > 2 * left[-1]
