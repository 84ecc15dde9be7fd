"""Curves that are kept with figures: they say what the images say, and take little room."""

import json

import numpy as np
import pytest
from sklearn.metrics import auc, average_precision_score, roc_auc_score

from busi_search.release.curves import MAX_POINTS, Curves, drawn_curves


def _images(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, labels of three classes (2 is positive) and groups of one to three images."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(260), rng.integers(1, 4, 260))
    labels = rng.integers(0, 3, 260)[groups]
    shared = rng.normal(size=260)[groups]
    odds = -1.5 + 2.2 * (labels == 2) + 0.8 * shared + rng.normal(size=len(groups))
    return 1 / (1 + np.exp(-odds)), labels, groups


def _curves(*, seed: int = 0) -> Curves:
    scores, labels, groups = _images(seed)
    found = drawn_curves(
        scores, labels, groups, class_names=("normal", "benign", "malignant"), positive=2,
        called=scores >= 0.3,
    )  # fmt: skip
    assert found is not None
    return found


def test_few_points_hold_the_area_under_the_whole_curves() -> None:
    scores, labels, _ = _images()
    found = _curves()
    x, y = zip(*found.roc, strict=True)
    assert len(x) <= MAX_POINTS + 2
    assert (x[0], y[0]) == (0, 0)
    assert (x[-1], y[-1]) == (1, 1)
    assert auc(x, y) == pytest.approx(roc_auc_score(labels == 2, scores), abs=0.003)
    recall, precision = zip(*found.precision_recall, strict=True)
    expected = average_precision_score(labels == 2, scores)
    assert auc(recall, precision) == pytest.approx(expected, abs=0.01)


def test_every_image_is_counted_once() -> None:
    scores, labels, _ = _images()
    found = _curves()
    assert sum(map(sum, found.histogram)) == len(scores)
    assert sum(ill for ill, _ in found.histogram) == int(np.sum(labels == 2))
    assert found.called["malignant"] == (
        int(np.sum((labels == 2) & (scores >= 0.3))),
        int(np.sum((labels == 2) & (scores < 0.3))),
    )
    assert sum(map(sum, found.called.values())) == len(scores)


def test_what_is_kept_is_read_again_and_small() -> None:
    found = _curves()
    text = json.dumps(found.to_json(), allow_nan=False)
    assert len(text) < 10_000
    again = Curves.from_json(json.loads(text))
    assert json.dumps(again.to_json()) == text


def test_the_band_of_the_decision_curve_is_a_bootstrap_of_groups() -> None:
    scores, labels, groups = _images()
    truth = labels == 2
    rng = np.random.default_rng(1)
    drawn = [rng.choice(260, 260) for _ in range(1500)]
    weights = np.stack([np.bincount(chosen, minlength=260)[groups] for chosen in drawn])
    for row in _curves().decision[::6]:
        odds = row["threshold"] / (1 - row["threshold"])
        gained = np.where(scores >= row["threshold"], np.where(truth, 1.0, -odds), 0.0)
        assert row["model"] == pytest.approx(gained.mean())
        low, high = np.quantile(weights @ gained / weights.sum(axis=1), [0.025, 0.975])
        width = row["model_ci95"][1] - row["model_ci95"][0]
        assert width == pytest.approx(high - low, rel=0.12)


def test_one_class_draws_nothing() -> None:
    scores, labels, groups = _images()
    ill = labels == 2
    assert (
        drawn_curves(
            scores[ill], labels[ill], groups[ill], class_names=("a", "b", "c"), positive=2,
            called=scores[ill] > 0.5,
        )
        is None
    )  # fmt: skip
