"""How often a winner that is no better is said to be better than a known system.

Simulated searches whose truth is known: each trial's score for an image is a signal, a difficulty
that all trials share, and luck of its own, part of it shared within a group of images (patients) or
within a family of trials. One more trial is the known system; it can win too, and then nothing is
claimed. Printed per scenario, over all searches: how often p < .05 for the difference as found
(paired image by image, as if nobody had chosen) and as corrected; how often the 95 % interval of
the corrected difference lies above 0; how often it covers the true difference; its mean error.

    uv run python -m benchmarks.known_systems --searches 400
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from busi_search.release.recipe_comparison import corrected_differences
from busi_search.search.pruning.evidence import Difference, auc_influence, weigh
from busi_search.training.metrics import binary_auc

SHARED, OWN, NUM_FOLDS = 1.0, 0.7, 5
NOISE = np.sqrt(2 * (SHARED**2 + OWN**2))


@dataclass(frozen=True)
class Scenario:
    """One kind of search.

    Attributes:
        name: what is particular about it.
        num_images: N.
        num_trials: besides the known system.
        largest_group: group sizes are even between 1 and this.
        families: trials of a family share 64 % of their luck; 0: none do.
        lead: by how much the trials' true AUC is above the known system's.
        num_leading: trials that have this lead; the others are as good as the known system.
        spread: standard deviation of the trials' signals.
        num_bad: trials that are clearly worse.
    """

    name: str
    num_images: int = 500
    num_trials: int = 30
    largest_group: int = 1
    families: int = 0
    lead: float = 0.0
    num_leading: int | None = None
    spread: float = 0.0
    num_bad: int = 0


SCENARIOS = (
    Scenario("equal"),
    Scenario("equal, 150 images", num_images=150),
    Scenario("equal, 100 trials", num_trials=100),
    Scenario("equal, patients of up to 12", largest_group=12),
    Scenario("equal, five families", families=5),
    Scenario("ten equal, twenty bad", num_bad=20),
    Scenario("all .03 better", lead=0.03),
    Scenario("all .03 better, patients", lead=0.03, largest_group=12),
    Scenario("one .03 better", lead=0.03, num_leading=1),
    Scenario("about .03 better", lead=0.03, spread=0.1),
    Scenario("all .05 better", lead=0.05),
)


def simulate(
    rng: np.random.Generator, scenario: Scenario
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return labels, groups and folds (N,), probabilities (T, N, 2) and true AUCs (T,)."""
    num_images, num_trials = scenario.num_images, scenario.num_trials + 1
    groups = np.repeat(
        np.arange(num_images), rng.integers(1, scenario.largest_group + 1, num_images)
    )[:num_images]
    num_groups = groups[-1] + 1
    label_of = (rng.random(num_groups) < 0.3).astype(int)
    labels = label_of[groups]
    # Folds of whole groups, stratified.
    fold_of = np.empty(num_groups, dtype=int)
    fold_of[np.argsort(label_of, kind="stable")] = np.arange(num_groups) % NUM_FOLDS
    signal = np.full(num_trials, 1.6)
    leading = slice(1, None if scenario.num_leading is None else 1 + scenario.num_leading)
    signal[leading] = NOISE * norm.ppf(norm.cdf(1.6 / NOISE) + scenario.lead)
    signal[1:] += scenario.spread * rng.normal(size=scenario.num_trials)
    if scenario.num_bad:
        signal[-scenario.num_bad :] -= rng.uniform(0.4, 1.0, scenario.num_bad)

    def luck(*shape: int) -> np.ndarray:
        """Standard normal per image, half of its variance that of the group where there are any."""
        own = rng.normal(size=(*shape, num_images))
        if scenario.largest_group == 1:
            return own
        return np.sqrt(0.5) * (own + rng.normal(size=(*shape, num_groups))[..., groups])

    own = luck(num_trials)
    if scenario.families:
        family = rng.integers(0, scenario.families, num_trials)
        own = 0.6 * own + 0.8 * luck(scenario.families)[family]
    scores = signal[:, None] * labels + SHARED * luck() + OWN * own
    positive = 1 / (1 + np.exp(-scores))
    rows = np.stack([1 - positive, positive], axis=2)
    return labels, groups, fold_of[groups], rows, norm.cdf(signal / NOISE)


def as_found(labels: np.ndarray, groups: np.ndarray, folds: np.ndarray, pair: np.ndarray) -> float:
    """Return the one-sided p of the first against the second, as if nobody had chosen."""
    differences = []
    for fold in range(NUM_FOLDS):
        rows = folds == fold
        truth = labels[rows] == 1
        one, other = (scores[rows, 1] for scores in pair)
        influence = auc_influence(one, truth) - auc_influence(other, truth)
        sums = np.bincount(groups[rows], weights=influence)
        value = binary_auc(other, truth) - binary_auc(one, truth)
        differences.append(Difference(value, float(np.sum(sums**2)) / rows.sum() ** 2))
    return weigh(differences, NUM_FOLDS).p_value


def search(
    rng: np.random.Generator, scenario: Scenario, num_bootstraps: int
) -> tuple[bool, bool, bool, bool, float]:
    """Return whether both p are below .05, the interval is above 0 and covers; the error."""
    labels, groups, folds, rows, truth = simulate(rng, scenario)
    held = [folds == fold for fold in range(NUM_FOLDS)]
    scores = [
        np.mean([binary_auc(own[images, 1], labels[images] == 1) for images in held])
        for own in rows
    ]
    best = int(np.argmax(scores))
    if best == 0:
        return False, False, False, True, 0.0
    found = corrected_differences(
        labels,
        rows,
        winner=best,
        recipes={0: np.arange(NUM_FOLDS)},
        groups=groups,
        folds=folds,
        metric="auc",
        num_bootstraps=num_bootstraps,
    )[0]
    lead = truth[best] - truth[0]
    return (
        as_found(labels, groups, folds, rows[[best, 0]]) < 0.05,
        found.p_value < 0.05,
        found.low > 0,
        found.low <= lead <= found.high,
        found.value - lead,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=400)
    parser.add_argument("--bootstraps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", default=[], help="Names of scenarios.")
    options = parser.parse_args()
    print("scenario | found p < .05 | corrected p < .05 | interval above 0 | covers | error")
    for scenario in SCENARIOS:
        if options.only and scenario.name not in options.only:
            continue
        rows = np.array(
            [
                search(np.random.default_rng([options.seed, i]), scenario, options.bootstraps)
                for i in range(options.searches)
            ],
            dtype=float,
        )
        means, errors = rows.mean(axis=0), rows.std(axis=0) / np.sqrt(len(rows))
        shares = " | ".join(
            f"{100 * mean:5.1f} ± {100 * error:.1f} %"
            for mean, error in zip(means[:4], errors[:4], strict=True)
        )
        print(f"{scenario.name} | {shares} | {means[4]:+.4f} ± {errors[4]:.4f}", flush=True)


if __name__ == "__main__":
    main()
