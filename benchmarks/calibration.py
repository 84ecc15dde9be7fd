"""What calibration figures are worth at few images: bias, spread, and coverage of their intervals.

Simulated test sets whose truth is known: the log odds of an image are normal (about 35 % positive),
and a model says them as they are, twice as extreme, or raised by 0.7. In sets with twins every
group has two images with one outcome. Printed per model and number of images: the mean of the
binned error and of the one without its bias (calibration_error) with Monte-Carlo errors, how often
the 95 % intervals hold the truth, and the share that hold their own estimate, which must be 1.

    uv run python -m benchmarks.calibration --sets 1000
"""

import argparse

import numpy as np
from scipy.optimize import brentq
from scipy.special import expit

from busi_search.release.calibration_figures import (
    CALIBRATION_FIGURES,
    binned_error,
    binned_error_if_calibrated,
    calibration_figures,
)
from busi_search.training.metrics import expected_calibration_error
from busi_search.training.weighted_metrics import group_weights

# Added to the true log odds, and by how much they are stretched.
MODELS = {"perfect": (0.0, 1.0), "too extreme": (0.0, 2.0), "too high": (0.7, 1.0)}
PREVALENCE_LOGIT, SPREAD = -0.8, 1.6


def truths(shift: float, stretch: float) -> dict[str, float]:
    """Return what the figures are at any number of images."""
    odds = PREVALENCE_LOGIT + SPREAD * np.random.default_rng(0).normal(size=400_000)
    said, true = expit(shift + stretch * odds), expit(odds)
    away = brentq(lambda a: expit(shift + stretch * odds + a).mean() - true.mean(), -5, 5)
    return {
        "calibration_intercept": float(away),
        "calibration_slope": 1 / stretch,
        "observed_expected": float(true.mean() / said.mean()),
        "calibration_error": float(np.sqrt(np.mean((said - true) ** 2))),
    }


def simulate(num_images: int, shift: float, stretch: float, twins: bool, seed: list[int]) -> dict:
    """Return the figures of one set, by name: value, low and high."""
    rng = np.random.default_rng(seed)
    groups = np.arange(num_images) // (2 if twins else 1)
    odds = (PREVALENCE_LOGIT + SPREAD * rng.normal(size=num_images))[groups]
    truth = (rng.random(num_images)[groups]) < expit(odds)
    said = expit(shift + stretch * odds)
    found = dict(calibration_figures(said, truth, groups))
    rows, labels = np.stack([1 - said, said], axis=1), truth.astype(int)
    drawn = group_weights(groups, num_bootstraps=500, rng=rng)
    value = expected_calibration_error(rows, labels)
    found["ece"] = binned_error(rows, labels, drawn, value=value)
    rows_found = {name: (f.value, *f.ci95) for name, f in found.items()}
    expected = binned_error_if_calibrated(rows.max(axis=1), groups)
    return rows_found | {"if calibrated": (expected, np.nan, np.nan)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        f"{'model':>12s}{'images':>8s}{'ece':>16s}{'if calibrated':>15s}{'error':>17s}{'true':>7s}"
        "   coverage: intercept, slope, O/E, error; hold their own estimate",
    )
    for (model, (shift, stretch)), twins in [(m, False) for m in MODELS.items()] + [
        (("perfect", MODELS["perfect"]), True)
    ]:
        true = truths(shift, stretch)
        for number in (60, 120, 300):
            sets = [
                simulate(number, shift, stretch, twins, [options.seed, number, index])
                for index in range(options.sets)
            ]
            means = []
            for name in ("ece", "if calibrated", "calibration_error"):
                values = np.array([found[name][0] for found in sets])
                error = np.nanstd(values) / np.sqrt(len(values))
                means.append(f"{np.nanmean(values):+.4f}±{error:.4f}")
            covered, own = [], []
            for name in (*CALIBRATION_FIGURES, "ece"):
                value, low, high = np.array([found[name] for found in sets]).T
                known = np.isfinite(value)
                own.append(np.mean((low <= value)[known] & (value <= high)[known]))
                if name in true:
                    inside = (low <= true[name]) & (true[name] <= high)
                    covered.append(f"{100 * np.mean(inside[known]):.1f}")
            print(
                f"{model + (', twins' if twins else ''):>15s}{number:5d}  {means[0]}  {means[1]}  "
                f"{means[2]}  {true['calibration_error']:.3f}   {', '.join(covered)} %; "
                f"{min(own):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
