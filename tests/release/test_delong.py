"""DeLong's interval against its definition, image pair by image pair."""

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import t

from busi_search.release.delong import delong_interval
from busi_search.training.metrics import softmax

# Seven images of four patients; one patient has an image of each kind.
SCORES = np.array([0.9, 0.6, 0.3, 0.7, 0.4, 0.4, 0.1])
POSITIVE = np.array([True, True, True, False, False, False, False])
PATIENTS = np.array([0, 0, 1, 1, 2, 3, 3])
ROWS = np.stack([1 - SCORES, SCORES], axis=1)


def _expected(patients: np.ndarray) -> tuple[float, float]:
    """Obuchowski 1997 in its own words: components, cluster sums S10, S01 and S11."""
    ill, healthy = SCORES[POSITIVE], SCORES[~POSITIVE]
    m, n = len(ill), len(healthy)
    above = (ill[:, None] > healthy) + 0.5 * (ill[:, None] == healthy)
    area = above.mean()
    assert area == pytest.approx(8 / 12)
    v10, v01 = above.mean(axis=1), above.mean(axis=0)
    names = np.unique(patients)
    of_ill = np.array([np.sum(v10[patients[POSITIVE] == name] - area) for name in names])
    of_healthy = np.array([np.sum(v01[patients[~POSITIVE] == name] - area) for name in names])
    i10, i01 = len(set(patients[POSITIVE])), len(set(patients[~POSITIVE]))
    s10 = i10 / ((i10 - 1) * m) * np.sum(of_ill**2)
    s01 = i01 / ((i01 - 1) * n) * np.sum(of_healthy**2)
    s11 = len(names) / (len(names) - 1) * np.sum(of_ill * of_healthy)
    variance = s10 / m + s01 / n + 2 * s11 / (m * n)
    parts = np.array([s10 / m, s01 / n])
    freedom = parts.sum() ** 2 / np.sum(parts**2 / np.array([i10 - 1, i01 - 1]))
    width = t.ppf(0.975, freedom) * np.sqrt(variance) / (area * (1 - area))
    return float(expit(logit(area) - width)), float(expit(logit(area) + width))


@pytest.mark.parametrize("patients", [PATIENTS, np.arange(7)])
def test_the_interval_is_obuchowskis_and_delongs_where_images_are_independent(
    patients: np.ndarray,
) -> None:
    labels = POSITIVE.astype(int)
    found = delong_interval(ROWS, labels, patients, positive=1)
    assert found == pytest.approx(_expected(patients))
    # The other class has the same AUC, and so the same interval.
    assert delong_interval(ROWS, labels, patients, positive=0) == pytest.approx(found)


def test_independent_images_have_sample_variances() -> None:
    """DeLong et al. 1988: m - 1 and n - 1, not m and n."""
    above = (SCORES[POSITIVE][:, None] > SCORES[~POSITIVE]) + 0.0
    above += 0.5 * (SCORES[POSITIVE][:, None] == SCORES[~POSITIVE])
    parts = np.array([above.mean(axis=1).var(ddof=1) / 3, above.mean(axis=0).var(ddof=1) / 4])
    freedom = parts.sum() ** 2 / np.sum(parts**2 / [2, 3])
    width = t.ppf(0.975, freedom) * np.sqrt(parts.sum()) / (8 / 12 * 4 / 12)
    low, high = delong_interval(ROWS, POSITIVE.astype(int), np.arange(7), positive=1)
    assert (logit(low), logit(high)) == pytest.approx(
        (logit(8 / 12) - width, logit(8 / 12) + width)
    )


def test_copies_of_images_make_nothing_surer() -> None:
    rng = np.random.default_rng(0)
    labels = np.arange(90) % 3
    logits = rng.normal(size=(90, 3))
    logits[np.arange(90), labels] += 1.2
    rows, groups = softmax(logits), np.arange(90)
    once = delong_interval(rows, labels, groups, positive=1)
    copied = [np.tile(rows, (4, 1)), np.tile(labels, 4)]
    assert delong_interval(*copied, np.tile(groups, 4), positive=1) == pytest.approx(once)
    low, high = delong_interval(*copied, np.arange(360), positive=1)
    assert high - low < 0.6 * (once[1] - once[0])


def test_one_patient_says_nothing_of_others() -> None:
    labels = POSITIVE.astype(int)
    assert delong_interval(ROWS, labels, labels, positive=1) == (0.0, 1.0)
    perfect = np.stack([1 - labels, labels], axis=1).astype(float)
    assert delong_interval(perfect, labels, PATIENTS, positive=1) == (1.0, 1.0)
