"""Simulated searches whose truth is known, each kind by a generator of its own.

A trial's score for an image and a class is a signal, a difficulty that all trials share, luck that
a family of similar trials shares, and luck of its own; each of them has a part that is the same in
all images of a group. A trial's truth is its figure on 320,000 new images.
"""

from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np
from scipy.special import softmax
from scipy.stats import norm

from busi_search.search.pruning.evidence import auc_influence
from busi_search.training.metrics import binary_auc
from busi_search.training.weighted_metrics import weighted_metric

SHARED, OWN = 1.0, 0.7
NUM_FRESH = 40_000


@dataclass(frozen=True)
class Scenario:
    """How a search is simulated.

    Attributes:
        num_images, num_trials: N and T.
        metric: the objective.
        spread: standard deviation of the trials' signals: how much they really differ.
        signal: mean signal; larger is easier.
        shares: of the classes.
        largest_group: groups have 1 to so many images.
        within: part of every variance that is the same in a whole group.
        family: trials in families of so many share half of the variance of their own luck.
        fold_shares: sizes of the folds; empty for one pool of images.
        adaptive: later trials are drawn near the best so far.
        chance: trials whose chance of ending best is below it are pruned; 0 never prunes.
    """

    num_images: int
    num_trials: int
    metric: str = "auc"
    spread: float = 0.0
    signal: float = 1.6
    shares: tuple[float, ...] = (0.7, 0.3)
    largest_group: int = 1
    within: float = 0.0
    family: int = 1
    fold_shares: tuple[float, ...] = ()
    adaptive: bool = False
    chance: float = 0.0

    @property
    def binary(self) -> bool:
        return len(self.shares) == 2


@dataclass(frozen=True)
class Search:
    """One simulated search: what the correction is given, and each trial's true figure (T,)."""

    labels: np.ndarray
    probabilities: np.ndarray
    truth: np.ndarray
    groups: np.ndarray
    folds: np.ndarray | None = field(default=None)


FIVE = (0.2,) * 5
THREE_CLASSES = (0.7, 0.24, 0.06)

# The widening of the intervals was chosen on these ...
TUNING = {
    "equal": Scenario(300, 40),
    "narrow": Scenario(500, 100, spread=0.2),
    "wide": Scenario(500, 100, spread=0.6),
    "small": Scenario(80, 30, spread=0.2, signal=3.0),
    "groups": Scenario(480, 40, spread=0.2, largest_group=12, within=0.8),
    "families": Scenario(400, 60, spread=0.2, family=10),
    "uneven folds": Scenario(400, 40, spread=0.2, fold_shares=(0.5, 0.2, 0.15, 0.1, 0.05)),
    "three classes, F1": Scenario(
        500, 40, "f1", 0.3, signal=2.5, shares=THREE_CLASSES, fold_shares=FIVE
    ),
    "groups, F1": Scenario(600, 40, "f1", 0.2, 2.5, THREE_CLASSES, largest_group=12, within=0.8),
    "log loss": Scenario(400, 40, "log_loss", 0.3),
    "adaptive": Scenario(400, 60, spread=0.3, fold_shares=FIVE, adaptive=True, chance=0.3),
}
# ... and checked on these.
CHECK = {
    "equal": Scenario(400, 100),
    "narrow": Scenario(300, 60, spread=0.15),
    "wide": Scenario(780, 40, spread=0.5),
    "small": Scenario(80, 60, spread=0.0, signal=3.5),
    "groups": Scenario(600, 100, spread=0.1, largest_group=12, within=0.7),
    "families": Scenario(500, 60, spread=0.1, family=20),
    "uneven folds": Scenario(600, 60, spread=0.1, fold_shares=(0.5, 0.2, 0.15, 0.1, 0.05)),
    "three classes, F1": Scenario(
        700, 60, "f1", 0.2, signal=3.0, shares=THREE_CLASSES, fold_shares=FIVE
    ),
    "groups, F1": Scenario(780, 60, "f1", 0.1, 3.0, THREE_CLASSES, largest_group=12, within=0.6),
    "three classes, AUC": Scenario(500, 60, spread=0.2, shares=THREE_CLASSES, fold_shares=FIVE),
    "log loss": Scenario(500, 60, "log_loss", 0.2, largest_group=6, within=0.5),
    "adaptive": Scenario(
        500, 80, spread=0.4, fold_shares=FIVE, adaptive=True, chance=0.35, family=8
    ),
}


def simulate(scenario: Scenario, rng: np.random.Generator) -> Search:
    """Return one search of a kind; images of folds that a pruned trial never saw are NaN."""
    groups = _groups(scenario, rng)
    num_groups, num_trials = groups[-1] + 1, scenario.num_trials
    # A group has one label. Two classes fall as they may; of three the rare one is never missing.
    borders = np.cumsum(scenario.shares)[:-1]
    even = (rng.permutation(num_groups) + 0.5) / num_groups
    label_of = np.searchsorted(borders, rng.random(num_groups) if scenario.binary else even)
    labels = label_of[groups]
    families = np.arange(num_trials) // scenario.family
    shared = SHARED * _noise(scenario, groups, rng)
    own = OWN * _noise(scenario, groups, rng, num_trials)
    if scenario.family > 1:
        common = OWN * _noise(scenario, groups, rng, families[-1] + 1)
        own = np.sqrt(0.5) * (own + common[families])
    folds = _folds(scenario, groups, label_of)
    if scenario.adaptive:
        signals = _adaptive_signals(scenario, rng, labels, shared + own, folds)
    else:
        signals = scenario.signal + scenario.spread * rng.normal(size=num_trials)
    probabilities = _probabilities(scenario, signals, labels, shared + own)
    truth = true_figure(scenario, signals)
    if scenario.chance:
        assert folds is not None
        done, _ = race(labels, probabilities, folds, scenario.chance)
        position = np.unique(folds, return_inverse=True)[1]
        probabilities = np.where((position < done[:, None])[:, :, None], probabilities, np.nan)
    return Search(labels, probabilities, truth, groups, folds)


def true_figure(scenario: Scenario, signals: np.ndarray) -> np.ndarray:
    """Return (T,) figures on new images, read from a curve over the signal."""
    grid, curve = _curve(replace(scenario, num_images=0, num_trials=0, spread=0.0))
    return np.interp(signals, grid, curve)


@cache
def _curve(scenario: Scenario) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    grid = scenario.signal + np.linspace(-3, 3, 31)
    labels = np.repeat(
        np.arange(len(scenario.shares)), np.round(NUM_FRESH * np.array(scenario.shares)).astype(int)
    )
    curve = np.zeros(len(grid))
    num_repeats = 8
    weights = np.ones((1, len(labels)))
    for _ in range(num_repeats):
        shape = (1, len(labels)) if scenario.binary else (1, len(labels), len(scenario.shares))
        noise = np.sqrt(SHARED**2 + OWN**2) * rng.normal(size=shape)
        for index, signal in enumerate(grid):
            rows = _probabilities(scenario, np.array([signal]), labels, noise)[0]
            curve[index] += weighted_metric(scenario.metric, rows, labels, weights)[0]
    return grid, curve / num_repeats


def _groups(scenario: Scenario, rng: np.random.Generator) -> np.ndarray:
    sizes = rng.integers(1, scenario.largest_group + 1, size=scenario.num_images)
    return np.repeat(np.arange(scenario.num_images), sizes)[: scenario.num_images]


def _noise(
    scenario: Scenario, groups: np.ndarray, rng: np.random.Generator, num_rows: int = 1
) -> np.ndarray:
    """Return standard normal noise, (R, N) or for several classes (R, N, C)."""
    tail = () if scenario.binary else (len(scenario.shares),)
    alone = rng.normal(size=(num_rows, len(groups), *tail))
    if not scenario.within:
        return alone
    together = rng.normal(size=(num_rows, groups[-1] + 1, *tail))[:, groups]
    return np.sqrt(1 - scenario.within) * alone + np.sqrt(scenario.within) * together


def _probabilities(
    scenario: Scenario, signals: np.ndarray, labels: np.ndarray, noise: np.ndarray
) -> np.ndarray:
    """Return (T, N, C): as calibrated as the signal allows, with the classes' shares as prior."""
    if scenario.binary:
        # Noise of variance v: the log odds are (signal / v) (score - signal / 2) + prior.
        variance = SHARED**2 + OWN**2
        scores = signals[:, None] * labels + noise
        slope = scenario.signal / variance
        prior = np.log(scenario.shares[1] / scenario.shares[0])
        logit = slope * (scores - scenario.signal / 2) + prior
        positive = 1 / (1 + np.exp(-logit))
        return np.stack([1 - positive, positive], axis=2)
    truth = np.eye(len(scenario.shares))[labels]
    scores = signals[:, None, None] * truth + noise + np.log(scenario.shares)
    return softmax(scores, axis=2)


def _folds(scenario: Scenario, groups: np.ndarray, label_of: np.ndarray) -> np.ndarray | None:
    """Return folds of the stated sizes, whole groups, each class spread over all."""
    if not scenario.fold_shares:
        return None
    borders = np.cumsum(scenario.fold_shares)[:-1]
    fold_of = np.zeros(len(label_of), dtype=int)
    for label in np.unique(label_of):
        own = np.flatnonzero(label_of == label)
        fold_of[own] = np.searchsorted(borders, (np.arange(len(own)) + 0.5) / len(own))
    return fold_of[groups]


def _adaptive_signals(
    scenario: Scenario,
    rng: np.random.Generator,
    labels: np.ndarray,
    noise: np.ndarray,
    folds: np.ndarray | None,
) -> np.ndarray:
    """Return signals of trials that are drawn near the best so far, after ten at random."""
    signals = np.zeros(len(noise))
    scores = np.full(len(noise), -np.inf)
    for trial in range(len(noise)):
        if trial < 10 or rng.random() < 0.2:
            signals[trial] = scenario.signal - 2 * scenario.spread * abs(rng.normal())
        else:
            best = signals[scores.argmax()]
            step = scenario.spread * rng.normal() / 3
            signals[trial] = min(best + step, scenario.signal + scenario.spread)
        rows = _probabilities(
            scenario, signals[trial : trial + 1], labels, noise[trial : trial + 1]
        )
        scores[trial] = binary_auc(rows[0, :, 1], labels == 1)
    return signals


def race(
    labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray, chance: float
) -> tuple[np.ndarray, int]:
    """Prune as the ``evidence`` rule does, trial after trial; 0 never prunes.

    Returns:
        (T,) how many folds each trial went through, and the best of those that went through all.
    """
    held = [np.flatnonzero(folds == fold) for fold in np.unique(folds)]
    num_folds = len(held)
    scores = np.array(
        [[binary_auc(own[rows, 1], labels[rows] == 1) for rows in held] for own in probabilities]
    )
    # Once per trial and fold: what `paired_evidence` computes at every look.
    influences = [
        [auc_influence(own[rows, 1], labels[rows] == 1) for rows in held] for own in probabilities
    ]
    done, best = np.zeros(len(scores), dtype=int), None
    for trial, own in enumerate(scores):
        for num_done in range(1, num_folds + 1):
            done[trial] = num_done
            if best is None or num_done == num_folds:
                continue
            difference = np.mean(own[:num_done] - scores[best, :num_done])
            pairs = zip(influences[trial][:num_done], influences[best][:num_done], strict=True)
            variance = sum(np.sum((a - b) ** 2) / len(a) ** 2 for a, b in pairs) / num_done**2
            error = np.sqrt(variance * (1 - num_done / num_folds))
            if norm.cdf(difference / max(error, 1e-12)) < chance:
                break
        else:
            if best is None or own.mean() > scores[best].mean():
                best = trial
    assert best is not None
    return done, best
