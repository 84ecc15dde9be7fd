"""How far the best of many trials flatters itself, and how well the correction takes it back.

Simulated searches whose truth is known: each trial's score for an image is a signal, a difficulty
all trials share, and luck of its own. Printed per scenario: the mean of (estimate - truth of the
chosen trial) for the naive and the corrected figure, and how often the 95 % interval covers it;
with ``--pruned``, after a race by evidence in five folds, also when only the trials that went
through all of them are looked at.

    uv run python -m benchmarks.selection_bias --searches 200
    uv run python -m benchmarks.selection_bias --searches 60 --pruned
"""

import argparse
import time

import numpy as np
from scipy.stats import norm

from busi_search.release.selection import bias_corrected_estimate
from busi_search.search.pruning.evidence import auc_influence
from busi_search.training.metrics import binary_auc

SHARED, OWN = 1.0, 0.7
NUM_FOLDS = 5
RACES = ((500, 100, 0.0), (500, 100, 0.1), (500, 100, 0.3), (150, 100, 0.2))


def simulate(
    rng: np.random.Generator, *, num_images: int, num_trials: int, spread: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels (N,), probabilities (T, N, 2) and the true AUC of every trial (T,)."""
    labels = (rng.random(num_images) < 0.3).astype(int)
    signal = 1.6 + spread * rng.normal(size=num_trials)
    shared = SHARED * rng.normal(size=num_images)
    own = OWN * rng.normal(size=(num_trials, num_images))
    scores = signal[:, None] * labels + shared + own
    positive = 1 / (1 + np.exp(-scores))
    truth = norm.cdf(signal / np.sqrt(2 * (SHARED**2 + OWN**2)))
    return labels, np.stack([1 - positive, positive], axis=2), truth


def race(
    labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray, chance: float
) -> tuple[np.ndarray, int]:
    """Prune as the ``evidence`` rule does, trial after trial; 0 never prunes.

    Returns:
        (T,) how many folds each trial went through, and the best of those that went through all.
    """
    held = [np.flatnonzero(folds == fold) for fold in range(NUM_FOLDS)]
    scores = np.array(
        [[_auc(own[rows, 1], labels[rows]) for rows in held] for own in probabilities]
    )
    # Once per trial and fold: what `paired_evidence` computes at every look.
    influences = [
        [auc_influence(own[rows, 1], labels[rows] == 1) for rows in held] for own in probabilities
    ]
    done, best = np.zeros(len(scores), dtype=int), None
    for trial, own in enumerate(scores):
        for num_done in range(1, NUM_FOLDS + 1):
            done[trial] = num_done
            if best is None or num_done == NUM_FOLDS:
                continue
            difference = np.mean(own[:num_done] - scores[best, :num_done])
            pairs = zip(influences[trial][:num_done], influences[best][:num_done], strict=True)
            variance = sum(np.sum((a - b) ** 2) / len(a) ** 2 for a, b in pairs) / num_done**2
            error = np.sqrt(variance * (1 - num_done / NUM_FOLDS))
            if norm.cdf(difference / max(error, 1e-12)) < chance:
                break
        else:
            if best is None or own.mean() > scores[best].mean():
                best = trial
    assert best is not None
    return done, best


def after_races(searches: int, bootstraps: int, seed: int) -> None:
    """Print the bias of the winner's score, corrected among those that finished, and among all."""
    heads = ("images", "trials", "spread", "chance", "fewer", "true", "found", "finished", "all")
    print("".join(f"{head:>9s}" for head in heads) + "  coverage")
    for num_images, num_trials, spread in RACES:
        for chance in (0.0, 0.1, 0.2, 0.3):
            rows = []
            for index in range(searches):
                rng = np.random.default_rng([seed, index])
                labels, probabilities, truth = simulate(
                    rng, num_images=num_images, num_trials=num_trials, spread=spread
                )
                folds = np.empty(num_images, dtype=int)
                folds[np.argsort(labels, kind="stable")] = np.arange(num_images) % NUM_FOLDS
                done, best = race(labels, probabilities, folds, chance)
                seen = np.where((folds < done[:, None])[:, :, None], probabilities, np.nan)
                estimates = [
                    bias_corrected_estimate(
                        labels, known, folds=folds, num_bootstraps=bootstraps, seed=index
                    )
                    for known in (probabilities[done == NUM_FOLDS], seen)
                ]
                naive, corrected = (e.value - truth[best] for e in estimates)
                covered = estimates[1].low <= truth[best] <= estimates[1].high
                fewer = NUM_FOLDS * num_trials / done.sum()
                found = estimates[0].naive - truth[best]
                rows.append((fewer, truth[best], found, naive, corrected, covered))
            fewer, true, found, naive, corrected, covered = np.mean(rows, axis=0)
            print(
                f"{num_images:9d}{num_trials:9d}{spread:9.1f}{chance:9.1f}{fewer:8.2f}x{true:9.4f}"
                f"{found:+9.4f}{naive:+9.4f}{corrected:+9.4f}{100 * covered:8.1f} %",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pruned", action="store_true")
    options = parser.parse_args()
    if options.pruned:
        after_races(options.searches, options.bootstraps, options.seed)
        return
    print("images trials spread |  naive bias  corrected bias  coverage of 95 %  width")
    for num_images, num_trials, spread in (
        (150, 20, 0.0),
        (150, 100, 0.0),
        (150, 100, 0.2),
        (500, 1, 0.0),
        (500, 20, 0.0),
        (500, 100, 0.0),
        (500, 100, 0.2),
        (500, 100, 0.6),
        (780, 100, 0.1),
    ):
        rng = np.random.default_rng(options.seed)
        rows = []
        for index in range(options.searches):
            labels, probabilities, truth = simulate(
                rng, num_images=num_images, num_trials=num_trials, spread=spread
            )
            estimate = bias_corrected_estimate(
                labels, probabilities, num_bootstraps=options.bootstraps, seed=index
            )
            naive = [_auc(rows_of_trial[:, 1], labels) for rows_of_trial in probabilities]
            chosen = truth[int(np.argmax(naive))]
            covered = estimate.low <= chosen <= estimate.high
            width = estimate.high - estimate.low
            rows.append((estimate.naive - chosen, estimate.value - chosen, covered, width))
        naive_bias, bias, coverage, width = np.mean(rows, axis=0)
        print(
            f"{num_images:6d} {num_trials:6d} {spread:6.1f} |  {naive_bias:+10.4f}  "
            f"{bias:+14.4f}  {100 * coverage:14.1f} %  {width:.3f}",
            flush=True,
        )
    rng = np.random.default_rng(0)
    labels, probabilities, _ = simulate(rng, num_images=780, num_trials=100, spread=0.2)
    started = time.perf_counter()
    bias_corrected_estimate(labels, probabilities, num_bootstraps=1000)
    seconds = time.perf_counter() - started
    print(f"100 trials x 780 images x 1000 bootstraps: {seconds:.1f} s")


def _auc(scores: np.ndarray, labels: np.ndarray) -> float:
    return binary_auc(scores, labels == 1)


if __name__ == "__main__":
    main()
