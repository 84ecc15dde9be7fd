"""The time left, told in simulated searches whose end is known: no second passes."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from busi_search.search import progress
from busi_search.search.context import StudyContext
from busi_search.search.progress import ProgressMeter
from busi_search.search.store.fold_records import fold_key
from busi_search.search.store.records import EPOCHS, HYPERPARAMETERS, WORK
from busi_search.spec import Hyperparameters

NUM_FOLDS, NUM_TRIALS, NUM_WORKERS = 5, 40, 2


@dataclass
class Plan:
    """What a trial will be: its kind, the time of its folds, and what it stores first."""

    settings: dict[str, Any]
    fold_seconds: list[float]
    shared_seconds: float = 0.0
    start: float = 0.0
    ends: list[float] = field(default_factory=list)

    def begin(self, now: float) -> float:
        self.start = now
        spent = np.cumsum(self.fold_seconds)
        self.ends = [now + self.shared_seconds + seconds for seconds in spent]
        return self.ends[-1]

    def at(self, number: int, now: float) -> FrozenTrial:
        """The trial as the storage has it at a time."""
        done = sum(end <= now for end in self.ends)
        attributes: dict[str, Any] = {HYPERPARAMETERS: self.settings}
        for fold in range(done):
            extra = self.shared_seconds if fold == 0 else 0.0
            attributes[fold_key(fold)] = {"seconds": self.fold_seconds[fold] + extra}
        passed = now - self.start
        work: dict[str, Any] = {"phase": EPOCHS, "done": 0, "total": 0, "seconds": 0.0}
        if passed < self.shared_seconds:
            parts = int(10 * passed / self.shared_seconds)
            seconds = parts / 10 * self.shared_seconds
            work = {"phase": "storing features", "done": parts, "total": 10, "seconds": seconds}
            work["shared_seconds"] = seconds
        else:
            work["shared_seconds"] = self.shared_seconds
            begun = self.start + self.shared_seconds if done == 0 else self.ends[done - 1]
            if done < len(self.ends) and self.fold_seconds[done] > 6:
                epochs = int(10 * (now - begun) / self.fold_seconds[done])
                part = epochs / 10 * self.fold_seconds[done]
                work |= {"done": epochs, "total": 10, "seconds": part, "fold": done}
        if self.shared_seconds or work["done"]:
            attributes[WORK] = work
        state = TrialState.RUNNING
        if done == len(self.ends):
            state = TrialState.COMPLETE if done == NUM_FOLDS else TrialState.PRUNED
        value = 0.8 if state == TrialState.COMPLETE else None
        trial = create_trial(state=state, value=value, user_attrs=attributes)
        trial.number = number
        return trial


def frozen_study(rng: np.random.Generator) -> Iterator[Plan]:
    """Features stored once for each of three sizes, then trials of seconds."""
    seen = set[int]()
    while True:
        size = int(rng.choice([160, 224, 288]))
        shared = 0.0 if size in seen else 40 * (size / 160) ** 2
        seen.add(size)
        settings = Hyperparameters(
            architecture="efficientnet_lite0", head="logistic", image_size_pixels=size
        )
        folds = list(rng.uniform(0.3, 1.0, NUM_FOLDS) * (size / 160) ** 0.5)
        yield Plan(settings.model_dump(), folds, shared)


def pruned_study(rng: np.random.Generator) -> Iterator[Plan]:
    """A small network; most trials are stopped early, after some that are not."""
    number = 0
    while True:
        settings = Hyperparameters(
            architecture="small_cnn", batch_size=int(rng.choice([16, 32, 64]))
        )
        a_fold = 400 / settings.batch_size
        whole = number < 4 or rng.random() < 0.25
        folds = NUM_FOLDS if whole else int(rng.integers(1, 4))
        number += 1
        yield Plan(settings.model_dump(), list(a_fold * rng.uniform(0.8, 1.2, folds)))


def whole_networks(rng: np.random.Generator) -> Iterator[Plan]:
    """Every trial on all folds, of minutes."""
    while True:
        settings = Hyperparameters(architecture="resnet18")
        yield Plan(settings.model_dump(), list(60 * rng.uniform(0.9, 1.1, NUM_FOLDS)))


def searched(
    plans: Iterator[Plan],
    kinds: list[Hyperparameters],
    monkeypatch: pytest.MonkeyPatch,
    seconds_between_looks: float,
) -> tuple[list[tuple[float, int, float | None, str]], float]:
    """Return what the line said (time, trials finished, time left, phase), and the true end."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock.now))
    spec = SimpleNamespace(
        study=SimpleNamespace(direction="maximize"), configurations=lambda *_names: kinds
    )
    context = SimpleNamespace(partition=SimpleNamespace(folds=range(NUM_FOLDS)), spec=spec)
    meter = ProgressMeter(cast(StudyContext, context), NUM_TRIALS, [])
    begun: list[Plan] = []
    busy: list[float] = []
    said = []
    while True:
        while busy and busy[0] <= clock.now:
            heapq.heappop(busy)
        while len(busy) < NUM_WORKERS and len(begun) < NUM_TRIALS:
            begun.append(next(plans))
            heapq.heappush(busy, begun[-1].begin(clock.now))
        trials = [plan.at(number, clock.now) for number, plan in enumerate(begun)]
        shown = meter.measure(trials, workers=len(busy))
        said.append((clock.now, shown.finished, shown.remaining_seconds, shown.phase))
        if shown.finished == NUM_TRIALS:
            best = next(plan for plan in begun if len(plan.ends) == NUM_FOLDS)
            return said, clock.now + sum(best.fold_seconds) + progress.REPORT_SECONDS
        clock.now += seconds_between_looks


STUDIES = {
    "frozen": (
        frozen_study,
        [
            Hyperparameters(
                architecture="efficientnet_lite0", head="logistic", image_size_pixels=size
            )
            for size in (160, 224, 288)
        ],
        1.0,
    ),
    "pruned": (pruned_study, [Hyperparameters(architecture="small_cnn")], 5.0),
    "whole": (whole_networks, [Hyperparameters(architecture="resnet18")], 20.0),
}


@pytest.mark.parametrize("name", STUDIES)
def test_the_time_left_is_near_the_truth(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    study, kinds, pause = STUDIES[name]
    ratios, climbs = [], []
    for seed in range(3):
        said, end = searched(study(np.random.default_rng(seed)), kinds, monkeypatch, pause)
        for share in (0.25, 0.5, 0.75):
            now, _, left, _ = next(row for row in said if row[1] >= share * NUM_TRIALS)
            assert left is not None
            ratios.append(left / (end - now))
        told = [(now, left) for now, _, left, _ in said if left is not None]
        # Nobody waits for a first word longer than for the first trials.
        assert told[0][0] < end / 2
        assert max(left for _, left in told) < 3 * end
        after = [(now, left) for now, left in told if now > end / 4]
        climbs.append(max(b[1] - a[1] for a, b in itertools.pairwise(after)) / end)
    assert np.mean(np.abs(np.log(ratios)) < np.log(1.3)) >= 0.75, ratios
    assert np.median(np.abs(np.log(ratios))) < np.log(1.2), ratios
    assert max(climbs) < 0.2, climbs


def test_a_study_that_stores_features_says_so_and_foretells_no_hours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    study, kinds, pause = STUDIES["frozen"]
    said, end = searched(study(np.random.default_rng(0)), kinds, monkeypatch, pause)
    assert said[4][3] == "storing features"
    assert said[-1][3] == "searching"
    assert max(left for _, _, left, _ in said if left is not None) < 2 * end
