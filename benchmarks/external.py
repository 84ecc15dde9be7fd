"""Simulated hospitals with a known shift: are the figures recovered, do the intervals cover?

    uv run python -m benchmarks.external --hospitals 500

Each patient has one to three images whose scores resemble one another. A hospital differs from the
study's in prevalence, in the slope of the logit (a machine with more or less contrast) and in its
intercept (gain). What is true of each figure is computed from two million images.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from busi_search.release.positive_figures import at_prevalences, positive_figures
from busi_search.release.shares import net_benefit

Array = npt.NDArray[np.float64]
THRESHOLD, PREVALENCE, ACT_FROM = 0.3, 0.02, 0.2


@dataclass(frozen=True)
class Hospital:
    """How a hospital differs from the study's.

    Attributes:
        prevalence: share of patients with the disease.
        slope, intercept: the model's logit is divided by the slope, less the intercept.
    """

    prevalence: float
    slope: float = 1.0
    intercept: float = 0.0


HOSPITALS = {
    "as the study": Hospital(0.3),
    "screening, prevalence 0.1": Hospital(0.1),
    "contrast (slope 0.6)": Hospital(0.3, slope=0.6),
    "gain (intercept -0.8)": Hospital(0.3, intercept=-0.8),
    "all three": Hospital(0.15, slope=0.7, intercept=-0.5),
}


def simulate(
    hospital: Hospital, num_patients: int, rng: np.random.Generator
) -> tuple[Array, npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Return probabilities, truth and patients of one hospital's images."""
    ill = rng.random(num_patients) < hospital.prevalence
    number = rng.integers(1, 4, num_patients)
    patient = np.repeat(np.arange(num_patients), number)
    # Two normal curves two apart: the logit of the right probability at a prevalence of .3.
    middle = np.where(ill, 1.0, -1.0)
    spread = np.sqrt(0.6) * rng.normal(size=num_patients)
    score = (middle + spread)[patient] + np.sqrt(0.4) * rng.normal(size=len(patient))
    right = 2 * score + logit(0.3)
    probability = expit((right - hospital.intercept) / hospital.slope)
    return probability, ill[patient], patient


def truth_of(hospital: Hospital) -> dict[str, float]:
    """What is true of a hospital's images, by direct formulas on very many of them."""
    p, ill, _ = simulate(hospital, 1_000_000, np.random.default_rng(99))
    x, called = logit(p), p >= THRESHOLD
    a, b = 0.0, 1.0
    for _ in range(20):  # Newton's steps of a logistic regression
        fitted = expit(a + b * x)
        weight, wrong = fitted * (1 - fitted), ill - fitted
        matrix = np.array([[weight.sum(), weight @ x], [weight @ x, weight @ (x * x)]])
        step = np.linalg.solve(matrix, [wrong.sum(), wrong @ x])
        a, b = a + step[0], b + step[1]
    sensitivity, false_alarms = called[ill].mean(), called[~ill].mean()
    odds = ACT_FROM / (1 - ACT_FROM)
    acted = p >= ACT_FROM
    return {
        "auc": float(roc_auc_score(ill, p)),
        "sensitivity": float(sensitivity),
        "specificity": float(1 - false_alarms),
        "ppv": float(ill[called].mean()),
        "npv": float((~ill)[~called].mean()),
        "calibration_intercept": float(brentq(lambda c: np.sum(ill - expit(x + c)), -9, 9)),
        "calibration_slope": float(b),
        "observed_expected": float(ill.mean() / p.mean()),
        f"ppv at {PREVALENCE}": float(
            PREVALENCE * sensitivity
            / (PREVALENCE * sensitivity + (1 - PREVALENCE) * false_alarms)
        ),
        f"net benefit at {ACT_FROM}": float(
            np.mean(acted & ill) - odds * np.mean(acted & ~ill)
        ),
    }  # fmt: skip


def covered(
    hospital: Hospital, num_hospitals: int, num_patients: int
) -> dict[str, tuple[float, ...]]:
    """Return truth, mean estimate and share of intervals that cover the truth, by figure."""
    true = truth_of(hospital)
    values: dict[str, list[tuple[float, bool]]] = {name: [] for name in true}
    for seed in range(num_hospitals):
        rng = np.random.default_rng(seed)
        p, ill, patient = simulate(hospital, num_patients, rng)
        found = positive_figures(p, ill, patient, threshold=THRESHOLD).figures
        rows = {name: (f.value, *f.ci95) for name, f in found.items()}
        stated = at_prevalences(found, [PREVALENCE])[0]
        rows[f"ppv at {PREVALENCE}"] = (stated["ppv"], *stated["ppv_ci95"])
        benefit = net_benefit(p, ill, patient, (ACT_FROM,))[0]["model"]
        rows[f"net benefit at {ACT_FROM}"] = (benefit.value, *benefit.ci95)
        for name, found_row in rows.items():
            # Too few patients of a kind: the figure is not given, and None stands in its place.
            value, low, high = (np.nan if v is None else v for v in found_row)
            if np.isfinite(value):
                values[name].append((value, low <= true[name] <= high))
    return {
        name: (true[name], *np.mean(np.array(found, dtype=float), axis=0), len(found))
        for name, found in values.items()
    }


def main(show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hospitals", type=int, default=500)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--only", metavar="TITLE", action="append", choices=list(HOSPITALS))
    given = parser.parse_args()
    show("| hospital | figure | true | mean of estimates | intervals that cover it | hospitals |")
    show("|---|---|---|---|---|---|")
    for title in given.only or HOSPITALS:
        hospital = HOSPITALS[title]
        for name, row in covered(hospital, given.hospitals, given.patients).items():
            true, mean, share, number = row
            show(f"| {title} | {name} | {true:.3f} | {mean:.3f} | {share:.3f} | {number} |")


if __name__ == "__main__":
    main()
