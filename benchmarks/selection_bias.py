"""How far the best of many trials flatters itself, and how well the correction takes it back.

Simulated searches whose truth is known: each trial's score for an image is a signal, a difficulty
all trials share, and luck of its own. Printed per scenario: the mean of (estimate - truth of the
chosen trial) for the naive and the corrected figure, and how often the 95 % interval covers it.

    uv run python benchmarks/selection_bias.py --searches 200
"""

import argparse
import time

import numpy as np
from scipy.stats import norm

from busi_search.release.selection import bias_corrected_estimate

SHARED, OWN = 1.0, 0.7


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
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
    from busi_search.training.metrics import binary_auc

    return binary_auc(scores, labels == 1)


if __name__ == "__main__":
    main()
