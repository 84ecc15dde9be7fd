"""How far the best of many trials flatters itself, and how well the correction takes it back.

Simulated searches whose truth is known (benchmarks/selection_scenarios.py). Printed per scenario,
with Monte-Carlo errors: the mean of (figure - truth of the chosen trial) for the best as found and
for the corrected one; how often the 95 % interval covers that truth; its mean width; and how many
intervals end at 0 or 1. ``--races``: after races by evidence, also when only the trials that went
through all folds are looked at.

    uv run python -m benchmarks.selection_bias --searches 200
    uv run python -m benchmarks.selection_bias --searches 200 --check --scenarios groups adaptive
    uv run python -m benchmarks.selection_bias --searches 60 --races
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np

from benchmarks.selection_scenarios import CHECK, FIVE, TUNING, Scenario, Search, simulate
from busi_search.release.selection import Estimate, bias_corrected_estimate
from busi_search.spec import MINIMISED_METRICS
from busi_search.training.weighted_metrics import fold_mean_metric

RACES = ((500, 0.0), (500, 0.1), (500, 0.3), (150, 0.2))
CHANCES = (0.0, 0.2)


def estimate(scenario: Scenario, search: Search, num_bootstraps: int, seed: int) -> Estimate:
    """Return the corrected figure of one simulated search."""
    return bias_corrected_estimate(
        search.labels,
        search.probabilities,
        groups=search.groups,
        folds=search.folds,
        metric=scenario.metric,
        num_bootstraps=num_bootstraps,
        seed=seed,
    )


def winner(scenario: Scenario, search: Search) -> int:
    """Return the trial a search would choose among those with all predictions."""
    complete = np.flatnonzero(np.isfinite(search.probabilities[:, :, 0]).all(axis=1))
    as_it_is = np.ones((1, len(search.labels)))
    figures = [
        fold_mean_metric(scenario.metric, rows, search.labels, as_it_is, search.folds)[0]
        for rows in search.probabilities[complete]
    ]
    best = np.argmin if scenario.metric in MINIMISED_METRICS else np.argmax
    return int(complete[best(figures)])


def mean_and_error(values: Sequence[float]) -> str:
    """Return a mean and its Monte-Carlo error."""
    return f"{np.mean(values):+.4f} ± {np.std(values) / np.sqrt(len(values)):.4f}"


def compare(scenarios: dict[str, Scenario], searches: int, bootstraps: int, seed: int) -> None:
    """Print one line per scenario."""
    print(
        f"{'scenario':20s} images trials  {'bias as found':>17s}  {'bias corrected':>17s}"
        "      coverage   width  ends at 0 or 1  seconds"
    )
    for name, scenario in scenarios.items():
        found, corrected, covered, widths, ends = [], [], [], [], 0
        started = time.perf_counter()
        for index in range(searches):
            search = simulate(scenario, np.random.default_rng([seed, index]))
            result = estimate(scenario, search, bootstraps, index)
            truth = search.truth[winner(scenario, search)]
            found.append(result.naive - truth)
            corrected.append(result.value - truth)
            covered.append(result.low <= truth <= result.high)
            widths.append(result.high - result.low)
            ends += result.low <= 0 or (result.high >= 1 and scenario.metric != "log_loss")
        share = np.mean(covered)
        error = np.sqrt(share * (1 - share) / searches)
        print(
            f"{name:20s} {scenario.num_images:6d} {scenario.num_trials:6d}  "
            f"{mean_and_error(found)}  {mean_and_error(corrected)}  "
            f"{100 * share:5.1f} ± {100 * error:.1f} %  {np.mean(widths):.3f}  {ends:14d}  "
            f"{time.perf_counter() - started:7.0f}",
            flush=True,
        )


def after_races(searches: int, bootstraps: int, seed: int) -> None:
    """Print the bias of the winner's score, corrected among those that finished, and among all."""
    print("images spread chance  fewer  bias as found      among finished     among all  coverage")
    for num_images, spread in RACES:
        for chance in CHANCES:
            scenario = Scenario(num_images, 100, spread=spread, fold_shares=FIVE, chance=chance)
            found, finished, everyone, covered, seen = [], [], [], [], []
            for index in range(searches):
                search = simulate(scenario, np.random.default_rng([seed, index]))
                known = np.isfinite(search.probabilities[:, :, 0])
                kept = known.all(axis=1)
                truth = search.truth[winner(scenario, search)]
                among_all = estimate(scenario, search, bootstraps, index)
                alone = Search(
                    search.labels,
                    search.probabilities[kept],
                    search.truth[kept],
                    search.groups,
                    search.folds,
                )
                found.append(among_all.naive - truth)
                everyone.append(among_all.value - truth)
                finished.append(estimate(scenario, alone, bootstraps, index).value - truth)
                covered.append(among_all.low <= truth <= among_all.high)
                seen.append(known.mean())
            print(
                f"{num_images:6d} {spread:6.1f} {chance:6.1f} {1 / np.mean(seen):5.2f}x  "
                f"{mean_and_error(found)}  {mean_and_error(finished)}  {mean_and_error(everyone)}  "
                f"{100 * np.mean(covered):.1f} %",
                flush=True,
            )


def seconds_per_figure() -> float:
    """Return how long a figure of 100 trials of 780 images takes with 1,000 resamples."""
    scenario = Scenario(780, 100, spread=0.2)
    search = simulate(scenario, np.random.default_rng(0))
    started = time.perf_counter()
    estimate(scenario, search, 1000, 0)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenarios", nargs="+", metavar="NAME", help="by name; default all")
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--bootstraps", type=int, default=150)
    parser.add_argument("--seed", type=int, help="default 7, and 8 with --check")
    parser.add_argument("--check", action="store_true", help="those that tuned nothing")
    parser.add_argument("--races", action="store_true")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else 8 if options.check else 7
    if options.races:
        after_races(options.searches, options.bootstraps, seed)
        return
    table = CHECK if options.check else TUNING
    names = options.scenarios or list(table)
    unknown = sorted(set(names) - set(table))
    if unknown:
        parser.error(f"unknown scenario {unknown[0]!r}; there are: {', '.join(table)}")
    compare({name: table[name] for name in names}, options.searches, options.bootstraps, seed)
    print(f"100 trials x 780 images x 1000 resamples: {seconds_per_figure():.2f} s a figure")


if __name__ == "__main__":
    main()
