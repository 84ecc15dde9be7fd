"""What the gate lets through, in simulated promotions whose truth is known.

A model's score for a test image is a signal, a difficulty that all models share, and luck of its
own; ``correlation`` is that of two models' scores for images of one kind (0.8 to 0.9 for two
winners of one search). Every rule decides on the program's own figures. Printed are

* chances: how often a candidate whose true AUC differs from the champion's becomes champion,
* drift: what ten candidates in a row make of the champion's true AUC, each of them that much worse
  or better than the champion of the time, and how much too high the last champion's test AUC reads,
* long: the same for thirty candidates, with and without a limit on the openings,
* floor: how often a first champion of a given true AUC passes,
* calibration: what error of bins a perfectly calibrated model reads.

    uv run python -m benchmarks.gate
    uv run python -m benchmarks.gate drift --runs 200
"""

import argparse
from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from busi_search.release.comparison import Difference, auc_parts, difference_error
from busi_search.release.gate_rule import auc_bound, luck_of_the_best, passes
from busi_search.spec import Gate
from busi_search.training.metrics import compute_metrics
from busi_search.training.weighted_metrics import group_weights, weighted_metric

FIRST_AUC = 0.88
HIGHEST_AUC = 0.99
UNLIMITED = 10**6


@dataclass(frozen=True)
class Rule:
    """A gate, and whether it holds candidates against the best champion so far or the present."""

    name: str
    gate: Gate
    against_best: bool = True


POINT = Rule("point estimate, present champion", Gate(confidence=0.5), against_best=False)
NOW = Rule("bound, best champion: as it is", Gate())
RULES = (
    POINT,
    Rule("point estimate, best champion", Gate(confidence=0.5)),
    Rule("bound, present champion", Gate(), against_best=False),
    Rule("90 % bound, best champion", Gate(confidence=0.9)),
    NOW,
    Rule("only what is shown to be better", Gate(max_auc_drop=0)),
)


@dataclass(frozen=True)
class Reading:
    """A model on the test: its true AUC, the one that is read, and the images' parts in it."""

    truth: float
    value: float
    parts: np.ndarray


class Test:
    """A sealed test, drawn anew, that reads one model after the other."""

    # Not a test, whatever its name begins with.
    __test__ = False

    def __init__(
        self, rng: np.random.Generator, num_images: int, num_malignant: int, correlation: float
    ) -> None:
        self.rng, self.correlation = rng, correlation
        self.labels = (np.arange(num_images) < num_malignant).astype(np.int64)
        self.groups = np.arange(num_images)
        self.shared = np.sqrt(correlation) * rng.normal(size=num_images)

    def read(self, truth: float) -> Reading:
        """Draw a model of a true AUC, and read it."""
        own = np.sqrt(1 - self.correlation) * self.rng.normal(size=len(self.labels))
        scores = np.sqrt(2) * norm.ppf(truth) * self.labels + self.shared + own
        rows = np.column_stack([-scores, scores])
        order = scores[self.labels == 1][:, None] > scores[self.labels == 0]
        return Reading(truth, order.mean(), auc_parts(rows, self.labels, positive=1))

    def compare(self, one: Reading, other: Reading) -> Difference:
        """Return the difference as the gate sees it."""
        error = difference_error(one.parts, other.parts, self.groups)
        return Difference(one.value - other.value, (np.nan, np.nan), np.nan, error)


def in_a_row(test: Test, rule: Rule, *, change: float, num_candidates: int) -> tuple[float, float]:
    """Let candidates come one after the other, each ``change`` better than the champion.

    Returns:
        How far the champion's true AUC has moved, and how much too high its test AUC reads.
    """
    champion = best = test.read(FIRST_AUC)
    for number in range(num_candidates):
        candidate = test.read(min(champion.truth + change, HIGHEST_AUC))
        found = test.compare(candidate, best if rule.against_best else champion)
        # The first champion was read once, and each candidate is.
        if passes(found, rule.gate, openings=number + 2):
            champion = candidate
            best = max(best, champion, key=lambda reading: reading.value)
    return champion.truth - FIRST_AUC, champion.value - champion.truth


def mean(values: list[float] | np.ndarray) -> str:
    """Return a mean with its Monte-Carlo error."""
    return f"{np.mean(values):+.4f} ± {np.std(values) / np.sqrt(len(values)):.4f}"


def share(values: list[bool]) -> str:
    """Return a share in per cent with its Monte-Carlo error."""
    found = float(np.mean(values))
    return f"{100 * found:5.1f} ± {100 * np.sqrt(found * (1 - found) / len(values)):.1f} %"


def settings() -> list[tuple[int, int, float]]:
    """Return test images, malignant ones, and correlations that are simulated."""
    sizes = ((120, 33), (300, 83), (800, 220))
    return [(*size, correlation) for size in sizes for correlation in (0.8, 0.9)]


def print_chances(runs: int, seed: int) -> None:
    for num_images, num_malignant, correlation in settings():
        for change in (-0.02, 0.0, 0.02):
            rng, found, needed = np.random.default_rng(seed), [], []
            for _ in range(runs):
                test = Test(rng, num_images, num_malignant, correlation)
                champion, candidate = test.read(FIRST_AUC), test.read(FIRST_AUC + change)
                found.append(test.compare(candidate, champion))
                needed.append(
                    found[-1].images_needed(num_images, margin=0.02, confidence=0.95),
                )
            error = np.mean([difference.standard_error for difference in found])
            for rule in (POINT, RULES[3], NOW, RULES[5]):
                passed = [passes(difference, rule.gate, openings=1) for difference in found]
                print(
                    f"{num_images:4d} images, correlation {correlation}, {change:+.2f}: "
                    f"{share(passed)}  {rule.name} (error of the difference {error:.3f}, "
                    f"{np.median(needed):.0f} images needed)",
                    flush=True,
                )


def print_drift(runs: int, seed: int) -> None:
    for num_images, num_malignant, correlation in settings():
        for change in (-0.02, -0.01, 0.0, 0.02):
            for rule in RULES:
                rng = np.random.default_rng(seed)
                rows = np.array(
                    [
                        in_a_row(
                            Test(rng, num_images, num_malignant, correlation),
                            rule,
                            change=change,
                            num_candidates=10,
                        )
                        for _ in range(runs)
                    ]
                )
                print(
                    f"{num_images:4d} images, correlation {correlation}, ten times {change:+.2f}: "
                    f"drift {mean(rows[:, 0])}, reads too high by {mean(rows[:, 1])}  {rule.name}",
                    flush=True,
                )


def print_long(runs: int, seed: int) -> None:
    unlimited = Rule("without max_openings", Gate(max_openings=UNLIMITED))
    for change in (-0.02, -0.01, 0.0, 0.02):
        for rule in (POINT, unlimited, NOW):
            rng = np.random.default_rng(seed)
            rows = np.array(
                [
                    in_a_row(Test(rng, 120, 33, 0.8), rule, change=change, num_candidates=30)
                    for _ in range(runs)
                ]
            )
            print(
                f" 120 images, correlation 0.8, thirty times {change:+.2f}: drift "
                f"{mean(rows[:, 0])}, reads too high by {mean(rows[:, 1])}  {rule.name}",
                flush=True,
            )
    for num_models in (2, 5, 11, 31):
        rng, excess, said = np.random.default_rng(seed), [], []
        for _ in range(runs):
            test = Test(rng, 120, 33, 0.8)
            models = [test.read(FIRST_AUC) for _ in range(num_models)]
            excess.append(max(model.value for model in models) - FIRST_AUC)
            error = test.compare(models[0], models[1]).standard_error
            said.append(luck_of_the_best(error, num_models))
        print(f"best of {num_models:2d} equal models: {mean(excess)}; promote says {mean(said)}")


def print_floor(runs: int, seed: int) -> None:
    for num_images, num_malignant in ((120, 33), (300, 83)):
        for truth in (0.5, 0.55, 0.6, 0.65, 0.7, 0.8):
            rng, passed = np.random.default_rng(seed), []
            for _ in range(runs):
                test = Test(rng, num_images, num_malignant, 0.8)
                own = rng.normal(size=num_images)
                rows = np.column_stack([-own, own]) + np.sqrt(2) * norm.ppf(
                    truth
                ) * np.column_stack([-test.labels, test.labels])
                drawn = group_weights(test.groups, num_bootstraps=400, rng=rng)
                sample = weighted_metric("auc", rows, test.labels, drawn)
                low, high = np.quantile(sample, [0.025, 0.975])
                value = weighted_metric("auc", rows, test.labels, np.ones((1, num_images)))[0]
                figures = {"auc": value, "auc_low": low, "auc_high": high}
                passed.append(auc_bound(figures, 0.95) > 0.5)
            print(
                f"{num_images:4d} images, true AUC {truth:.2f}: {share(passed)} pass min_auc = 0.5",
                flush=True,
            )


def print_calibration(runs: int, seed: int) -> None:
    for num_images in (60, 120, 300, 800):
        rng, errors = np.random.default_rng(seed), []
        for _ in range(runs):
            # The probabilities of malignant that a model of an AUC of .88 should give.
            signal = np.sqrt(2) * norm.ppf(FIRST_AUC)
            scores = rng.normal(size=num_images) + signal * (rng.random(num_images) < 0.275)
            logits = np.log(0.275 / 0.725) + signal * scores - signal**2 / 2
            positive = 1 / (1 + np.exp(-logits))
            labels = (rng.random(num_images) < positive).astype(np.int64)
            rows = np.column_stack([1 - positive, positive])
            errors.append(compute_metrics(rows, labels)["ece"])
        print(f"{num_images:4d} images, perfectly calibrated: ece {mean(errors)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = {
        "chances": print_chances,
        "drift": print_drift,
        "long": print_long,
        "floor": print_floor,
        "calibration": print_calibration,
    }
    parser.add_argument("parts", nargs="*", help=f"which of {', '.join(parts)} (default: all)")
    parser.add_argument("--runs", type=int, default=1000, help="simulated tests a row")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    unknown = set(options.parts) - parts.keys()
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(parts)}")
    for name in options.parts or parts:
        parts[name](options.runs, options.seed)


if __name__ == "__main__":
    main()
