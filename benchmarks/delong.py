"""How often DeLong's 95 % interval covers the true AUC of a test set whose images come in groups.

Simulated test sets whose truth is known: a group (a patient) has one label, its images share a part
of their scores, and its size is drawn evenly from 1 to the largest; the last group is cut so that
the number of images is exact. Compared are the formula with population variances, with the sample
variances of DeLong et al. (m - 1 and n - 1), and with sums by group (Obuchowski 1997), which is
what a test report gives.

    uv run python -m benchmarks.delong --sets 2000
"""

import argparse

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from busi_search.release.delong import delong_interval
from busi_search.search.pruning.evidence import auc_influence
from busi_search.training.metrics import binary_auc

SHARE_POSITIVE = 0.3
# Images, largest group, share of a score's variance that a group shares, true AUC.
SCENARIOS = (
    (120, 1, 0.0, 0.90),
    (120, 4, 0.5, 0.90),
    (120, 12, 0.0, 0.90),
    (120, 12, 0.5, 0.90),
    (120, 12, 0.8, 0.90),
    (120, 12, 0.5, 0.80),
    (500, 12, 0.5, 0.90),
)
METHODS = ("population variances", "m - 1, n - 1", "by groups")


def simulate(
    rng: np.random.Generator, num_images: int, largest: int, shared: float, area: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels (N,), scores (N,) and groups (N,)."""
    groups = np.repeat(np.arange(num_images), rng.integers(1, largest + 1, num_images))
    groups = groups[:num_images]
    num_groups = groups[-1] + 1
    labels = (rng.random(num_groups) < SHARE_POSITIVE)[groups].astype(int)
    scores = np.sqrt(shared) * rng.normal(size=num_groups)[groups]
    scores += np.sqrt(1 - shared) * rng.normal(size=num_images)
    return labels, scores + np.sqrt(2) * norm.ppf(area) * labels, groups


def population_interval(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """Return the interval from the mean squares of the influences, every image for itself."""
    area = binary_auc(scores, positive)
    if not 0 < area < 1:
        return area, area
    error = np.sqrt(np.mean(auc_influence(scores, positive) ** 2) / len(scores))
    low, high = expit(logit(area) + np.array([-1, 1]) * norm.ppf(0.975) * error / (area - area**2))
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print("images largest shared  AUC | coverage in %, ± standard error: " + " | ".join(METHODS))
    for scenario in SCENARIOS:
        rng = np.random.default_rng(options.seed)
        covered, widths = [], []
        while len(covered) < options.sets:
            labels, scores, groups = simulate(rng, *scenario)
            if len(np.unique(labels)) < 2:
                continue
            rows = np.stack([-scores, scores], axis=1)
            alone = np.arange(len(labels))
            intervals = [
                population_interval(scores, labels == 1),
                delong_interval(rows, labels, alone, positive=1),
                delong_interval(rows, labels, groups, positive=1),
            ]
            covered.append([low <= scenario[-1] <= high for low, high in intervals])
            widths.append([high - low for low, high in intervals])
        shares = np.mean(covered, axis=0)
        errors = np.sqrt(shares * (1 - shares) / options.sets)
        found = " | ".join(
            f"{100 * share:5.1f} ± {100 * error:.1f} (width {width:.3f})"
            for share, error, width in zip(shares, errors, np.mean(widths, axis=0), strict=True)
        )
        images, largest, shared, area = scenario
        print(f"{images:6d} {largest:7d} {shared:6.1f} {area:4.2f} | {found}", flush=True)


if __name__ == "__main__":
    main()
