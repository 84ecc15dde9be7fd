"""Trials whose costs differ a hundredfold: the time left, and what the pruner and samplers see."""

from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import cast

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from busi_search.search import progress
from busi_search.search.context import StudyContext
from busi_search.search.fold_result import FoldResult, Look
from busi_search.search.progress import ProgressMeter
from busi_search.search.pruning.evidence import hoped_difference
from busi_search.search.pruning.race import Incumbents, Race
from busi_search.search.sampler_view import expected_values
from busi_search.search.status import study_status
from busi_search.search.store.fold_records import encode_fold, fold_key, stored_fold
from busi_search.search.store.queue import Claim
from busi_search.search.store.records import (
    HYPERPARAMETERS,
    UNFINISHED_FOLD,
    WORKER,
    UnfinishedFold,
)
from busi_search.search.store.study_record import StudyRecord
from busi_search.spec import Hyperparameters
from busi_search.training import metrics

NUM_FOLDS, NUM_IMAGES = 5, 100
NOON = datetime(2026, 1, 1, 12)
# A head on frozen features is done in seconds, a whole network in minutes.
CHEAP = {"architecture": "resnet18", "weights": "imagenet", "freeze_depth": 5, "epochs": 20}
DEAR = {"architecture": "resnet18", "weights": "imagenet", "freeze_depth": 0, "epochs": 20}
SECONDS = {5: 1.0, 0: 100.0}

CONTEXT = cast(
    StudyContext,
    SimpleNamespace(
        partition=SimpleNamespace(folds=range(NUM_FOLDS)),
        spec=SimpleNamespace(
            study=SimpleNamespace(direction="maximize"), configurations=lambda *_names: []
        ),
    ),
)


def a_trial(
    number: int, settings: dict[str, object], state: TrialState, *, folds: int = NUM_FOLDS
) -> FrozenTrial:
    seconds = SECONDS[int(cast(int, settings["freeze_depth"]))]
    attributes = {
        HYPERPARAMETERS: Hyperparameters(**settings).model_dump(),  # type: ignore[arg-type]
        **{fold_key(fold): {"seconds": seconds} for fold in range(folds)},
    }
    trial = create_trial(
        state=state,
        value=0.8 if state == TrialState.COMPLETE else None,
        user_attrs=attributes,
    )
    trial.number = number
    trial.datetime_start = NOON
    if state.is_finished():
        trial.datetime_complete = NOON + timedelta(seconds=seconds * folds)
    return trial


def test_the_time_left_goes_by_what_trials_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    meter = ProgressMeter(CONTEXT, 8, [])
    meter.measure([a_trial(0, CHEAP, TrialState.RUNNING, folds=1)], workers=1)
    done = [a_trial(number, CHEAP, TrialState.COMPLETE) for number in range(4)]
    clock.now = 19.0
    after = progress.REPORT_SECONDS + 5
    assert meter.measure(done, workers=1).remaining_seconds == pytest.approx(4 * 5 + after)
    # A dear trial is half done: what is left of it is known, though three of four were cheap.
    clock.now = 219.0
    trials = [*done, a_trial(4, DEAR, TrialState.RUNNING, folds=2)]
    assert meter.measure(trials, workers=1).remaining_seconds == pytest.approx(300 + 3 * 5 + after)
    # Counting folds would have said 11 / 21 of the time so far: under two minutes.
    clock.now = 519.0
    trials = [*done, a_trial(4, DEAR, TrialState.COMPLETE)]
    mean = (4 * 5 + 500) / 5
    assert meter.measure(trials, workers=1).remaining_seconds == pytest.approx(3 * mean + after)


@pytest.mark.parametrize("search_seconds", [0.0, 6.0])
def test_a_search_with_a_time_limit_is_not_said_to_last_longer(
    search_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    meter = ProgressMeter(CONTEXT, 1000, [])
    meter.measure([a_trial(0, CHEAP, TrialState.RUNNING, folds=1)], workers=1)
    done = [a_trial(number, CHEAP, TrialState.COMPLETE) for number in range(4)]
    clock.now = 19.0
    without_limit = meter.measure(done, workers=1).remaining_seconds
    assert without_limit is not None
    assert without_limit > 1000
    limited = meter.measure(done, workers=1, search_seconds=search_seconds)
    after = progress.REPORT_SECONDS + 5
    assert limited.remaining_seconds == pytest.approx(search_seconds + after)


def test_the_latest_trials_tell_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(direction="maximize")
    StudyRecord(study).set_target(62)
    cheap = [a_trial(number, CHEAP, TrialState.COMPLETE) for number in range(40)]
    dear = [a_trial(40 + number, DEAR, TrialState.COMPLETE) for number in range(20)]
    running = a_trial(60, DEAR, TrialState.RUNNING, folds=0)
    running.set_user_attr(WORKER, "here/1")
    study.add_trials([*cheap, *dear, running])
    # Without an identity a study has one fold: 100 s of work in trials of 500 s.
    assert study_status(study).remaining_seconds == pytest.approx(
        2 * 500 + progress.REPORT_SECONDS + SECONDS[5]
    )


def test_what_was_broken_off_costs_what_its_kind_does() -> None:
    counts = progress.TrialCounts()
    broken = a_trial(1, DEAR, TrialState.PRUNED, folds=0)
    broken.set_user_attr(UNFINISHED_FOLD, UnfinishedFold(0, 10, 0.7).encode())
    trials = [a_trial(0, DEAR, TrialState.COMPLETE), broken, a_trial(2, CHEAP, TrialState.COMPLETE)]
    costs = counts.with_these(trials, NUM_FOLDS, "maximize").costs
    # Ten of the twenty epochs of a fold.
    assert costs.spent() == pytest.approx(500 + 50 + 5)


# --- pruning: searches simulated from learning curves -------------------------------------------


def _fold(
    rng: np.random.Generator, fold: int, course: list[float], epochs: list[int]
) -> FoldResult:
    """A fold whose final AUC is about the last value of its course."""
    labels = np.arange(NUM_IMAGES) % 2
    shift = np.sqrt(2) * _normal_quantile(course[-1])
    scores = rng.normal(size=NUM_IMAGES) + shift * labels
    log_probabilities = np.log(metrics.softmax(np.stack([-scores, scores], 1) / 2))
    final = metrics.auc(log_probabilities, labels, positive=1)
    offset = final - course[-1]
    return FoldResult(
        fold=fold,
        log_probabilities=log_probabilities.astype(np.float32),
        metrics={"auc": final},
        train_loss=(0.5,) * epochs[-1],
        val_epochs=tuple(epochs),
        val_auc=tuple(auc + offset for auc in course),
        image_passes=1,
        seconds=1.0,
    )


def _normal_quantile(share: float) -> float:
    from scipy.stats import norm

    return float(norm.ppf(share))


LOOKS = [3, 6, 9, 12, 15, 18, 20]
# On frozen features the AUC is there at once; a whole network is late and ends higher.
EARLY = [0.83, 0.84, 0.845, 0.85, 0.85, 0.85, 0.85]
LATE = [0.62, 0.68, 0.74, 0.80, 0.85, 0.88, 0.89]


def _stored(study: optuna.Study, settings: dict[str, object], folds: list[FoldResult]) -> None:
    attributes = {fold_key(fold.fold): encode_fold(fold) for fold in folds}
    attributes[HYPERPARAMETERS] = Hyperparameters(**settings).model_dump()  # type: ignore[arg-type]
    value = float(np.mean([fold.metrics["auc"] for fold in folds]))
    study.add_trial(create_trial(state=TrialState.COMPLETE, value=value, user_attrs=attributes))


def _race(study: optuna.Study, settings: dict[str, object]) -> Race:
    section = SimpleNamespace(
        pruner="evidence",
        objectives=("cv_auc",),
        further_objectives=(),
        direction="maximize",
        metric="auc",
    )
    folds = [SimpleNamespace(validation=np.arange(NUM_IMAGES)) for _ in range(NUM_FOLDS)]
    context = cast(
        StudyContext,
        SimpleNamespace(
            partition=SimpleNamespace(folds=folds),
            development=SimpleNamespace(labels=np.arange(NUM_IMAGES) % 2, positive=1),
            groups=np.arange(NUM_IMAGES),
            spec=SimpleNamespace(study=section),
        ),
    )
    trial = study.ask()
    trial.set_user_attr(HYPERPARAMETERS, Hyperparameters(**settings).model_dump())  # type: ignore[arg-type]
    claim = cast(
        Claim,
        SimpleNamespace(trial=trial, frozen=lambda: study.get_trials(deepcopy=False)[trial.number]),
    )
    return Race(context, Incumbents(context, study), claim)


def _share_given_up(
    rival: tuple[dict[str, object], list[float], list[int]],
    mine: tuple[dict[str, object], list[float]],
) -> float:
    """Return the share of simulated trials that are given up within their first fold."""
    rng, given_up = np.random.default_rng(0), 0
    for _ in range(40):
        study = optuna.create_study(direction="maximize")
        settings, course, epochs = rival
        _stored(study, settings, [_fold(rng, fold, course, epochs) for fold in range(NUM_FOLDS)])
        fold = _fold(rng, 0, mine[1], LOOKS)
        race = _race(study, mine[0])
        looks = [Look(0, epoch, 20, fold.val_auc[: i + 1]) for i, epoch in enumerate(LOOKS[:-1])]
        given_up += any(race.look(look) is not None for look in looks)
    return given_up / 40


@pytest.mark.parametrize("epochs", [LOOKS, [1]], ids=["trained head", "head solved at once"])
def test_a_late_network_is_not_given_up_for_an_early_head(epochs: list[int]) -> None:
    course = EARLY[-len(epochs) :]
    assert _share_given_up((CHEAP, course, epochs), (DEAR, LATE)) == 0
    # Nor is an early head for a late network that is better in the end: the folds decide.
    assert _share_given_up((DEAR, LATE, LOOKS), (CHEAP, EARLY)) == 0


def test_among_their_like_bad_ones_are_given_up_early() -> None:
    bad = [auc - 0.2 for auc in LATE]
    assert _share_given_up((DEAR, LATE, LOOKS), (DEAR, bad)) > 0.8
    # As good a one, on folds drawn independently: luck alone makes a difference of 0.05.
    assert _share_given_up((DEAR, LATE, LOOKS), (DEAR, LATE)) < 0.5


def test_the_rule_without_courses_would_have_given_good_networks_up() -> None:
    rng, given_up = np.random.default_rng(0), 0
    for _ in range(40):
        best = _fold(rng, 0, EARLY, LOOKS)
        mine = _fold(rng, 0, LATE, LOOKS)
        labels = np.arange(NUM_IMAGES) % 2
        hoped = hoped_difference(mine.val_auc[:2], best, 6 / 20, labels, best_epochs=20, positive=1)
        assert hoped is not None
        given_up += hoped.value < -1.04 * hoped.variance**0.5
    assert given_up > 20


def test_whole_folds_are_compared_whatever_they_cost() -> None:
    rng = np.random.default_rng(1)
    study = optuna.create_study(direction="maximize")
    _stored(study, DEAR, [_fold(rng, fold, LATE, LOOKS) for fold in range(NUM_FOLDS)])
    race = _race(study, CHEAP)
    bad = [0.6] * len(LOOKS)
    assert any(race.fold(_fold(rng, fold, bad, LOOKS)) is not None for fold in range(3))


def test_samplers_see_what_a_broken_off_network_is_worth_among_its_like() -> None:
    study = optuna.create_study(direction="maximize")
    rng = np.random.default_rng(2)
    for _ in range(3):
        _stored(study, CHEAP, [_fold(rng, fold, EARLY, LOOKS) for fold in range(NUM_FOLDS)])
        _stored(study, CHEAP, [_fold(rng, fold, EARLY[-1:], [1]) for fold in range(NUM_FOLDS)])
        _stored(study, DEAR, [_fold(rng, fold, LATE, LOOKS) for fold in range(NUM_FOLDS)])
    trials = study.get_trials()
    usual = np.mean([(stored_fold(t, 0) or {})["val_auc"][2] for t in trials[2::3]])
    broken = a_trial(9, DEAR, TrialState.PRUNED, folds=0)
    broken.set_user_attr(UNFINISHED_FOLD, UnfinishedFold(0, 9, float(usual) - 0.05).encode())
    overall = np.mean([trial.value for trial in trials])
    # By all trials, heads included, it would have been 0.1 worse.
    assert expected_values([*trials, broken])[-1] == pytest.approx(overall - 0.05, abs=0.01)
