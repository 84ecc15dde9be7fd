"""The average of the fold models, which is what a study registers."""

import numpy as np
import pytest
import torch
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from busi_search.models.ensemble import FoldEnsemble, average_models
from busi_search.training.zoo import build_model


def test_probabilities_are_the_calibrated_geometric_mean_of_the_models() -> None:
    models = []
    for seed in range(3):
        torch.manual_seed(seed)
        models.append(build_model("small_cnn", num_classes=3).eval())
    pixels = torch.randint(0, 256, (4, 1, 32, 32)).float()
    with torch.no_grad():
        each = np.stack([torch.softmax(model(pixels), dim=1).numpy() for model in models])
        found = FoldEnsemble(models, temperature=1.7).eval()(pixels).numpy()
    expected = np.prod(each.astype(np.float64), axis=0) ** (1 / 3 / 1.7)
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    average = average_models(each) ** (1 / 1.7)
    np.testing.assert_allclose(average / average.sum(axis=1, keepdims=True), expected, rtol=1e-4)


def test_a_model_that_excludes_a_class_leaves_probabilities() -> None:
    certain = np.array([[[1.0, 0.0]], [[0.4, 0.6]]])
    found = average_models(certain)
    assert np.isfinite(found).all()
    assert found.sum() == pytest.approx(1)
    assert found[0, 0] > 0.99


def test_calibrated_models_stay_closer_to_calibrated_than_under_a_mean() -> None:
    rng = np.random.default_rng(0)
    true = 2 * rng.normal(size=20_000)
    labels = rng.random(true.size) < expit(true)
    raw = true + 1.5 * rng.normal(size=(5, true.size))
    # One temperature for all, as a study fits it on out-of-fold predictions.
    raw *= np.mean([_slope(row, labels) for row in raw])
    models = np.stack([expit(-raw), expit(raw)], axis=2)
    geometric = _slope(logit(average_models(models)[:, 1]), labels)
    arithmetic = _slope(logit(models.mean(axis=0)[:, 1]), labels)
    assert 1 < geometric < arithmetic - 0.1


def _slope(log_odds: np.ndarray, labels: np.ndarray) -> float:
    fitted = LogisticRegression(C=1e8).fit(log_odds[:, None], labels)
    return float(fitted.coef_[0, 0])
