import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from busi_search.training.metrics import (
    compute_metrics,
    expected_calibration_error,
    softmax,
)
from busi_search.training.weighted_metrics import leave_part_out_weights, weighted_metric


def _draw(num_classes: int, num_images: int = 80, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, num_images)])
    rows = rng.dirichlet(np.ones(num_classes), len(labels))
    rows[:, 0] += 0.2
    return np.round(rows / rows.sum(1, keepdims=True), 2) + 1e-3, labels


@pytest.mark.parametrize("positive", [0, 1])
def test_binary_metrics_agree_with_scikit_learn(positive: int) -> None:
    probabilities, labels = _draw(2)
    truth, predicted = labels == positive, probabilities.argmax(1) == positive
    scores = probabilities[:, positive]
    computed = compute_metrics(probabilities, labels, positive=positive)
    assert computed["auc"] == pytest.approx(sk.roc_auc_score(truth, scores))
    assert computed["aupr"] == pytest.approx(sk.average_precision_score(truth, scores))
    assert computed["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert computed["f1"] == pytest.approx(sk.f1_score(truth, predicted))
    assert computed["precision"] == pytest.approx(sk.precision_score(truth, predicted))
    assert computed["recall"] == pytest.approx(sk.recall_score(truth, predicted))


def test_three_class_metrics_agree_with_scikit_learn() -> None:
    probabilities, labels = _draw(3)
    normalised = probabilities / probabilities.sum(1, keepdims=True)
    predicted = probabilities.argmax(1)
    computed = compute_metrics(normalised, labels)
    expected = {
        "auc": sk.roc_auc_score(labels, normalised, multi_class="ovr", average="macro"),
        "aupr": sk.average_precision_score(np.eye(3)[labels], normalised, average="macro"),
        "accuracy": sk.accuracy_score(labels, predicted),
        "balanced_accuracy": sk.balanced_accuracy_score(labels, predicted),
        "f1": sk.f1_score(labels, predicted, average="macro"),
        "precision": sk.precision_score(labels, predicted, average="macro", zero_division=0),
        "recall": sk.recall_score(labels, predicted, average="macro"),
        "log_loss": sk.log_loss(labels, normalised),
    }
    assert {key: computed[key] for key in expected} == pytest.approx(expected)
    one_hot = np.eye(3)[labels]
    assert computed["brier"] == pytest.approx(((normalised - one_hot) ** 2).sum() / len(labels))


def _plain_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int) -> float:
    """Guo et al. 2017, equation 3, bin by bin."""
    total = 0.0
    confidence, predicted = probabilities.max(1), probabilities.argmax(1)
    for index in range(bins):
        inside = (confidence > index / bins) & (confidence <= (index + 1) / bins)
        if inside.any():
            accuracy = (predicted[inside] == labels[inside]).mean()
            total += inside.mean() * abs(accuracy - confidence[inside].mean())
    return total


@pytest.mark.parametrize("bins", [5, 15])
def test_calibration_error_against_a_plain_loop(bins: int) -> None:
    probabilities, labels = _draw(3)
    probabilities /= probabilities.sum(1, keepdims=True)
    computed = expected_calibration_error(probabilities, labels, num_bins=bins)
    assert computed == pytest.approx(_plain_calibration_error(probabilities, labels, bins))
    perfect = np.eye(3)[labels]
    assert expected_calibration_error(perfect, labels, num_bins=bins) == 0


def test_an_absent_class_gives_nan_not_a_number_made_up() -> None:
    rows = np.array([[0.4, 0.6], [0.3, 0.7]])
    assert np.isnan(compute_metrics(rows, np.array([1, 1]))["auc"])


def test_softmax_is_stable() -> None:
    rows = softmax(np.array([[1000.0, 0.0], [-1000.0, -1000.0]], dtype=np.float32))
    np.testing.assert_allclose(rows, [[1, 0], [0.5, 0.5]])


@settings(deadline=None, max_examples=25)
@given(num_classes=st.integers(2, 4), seed=st.integers(0, 1000))
def test_weights_mean_repeated_images(num_classes: int, seed: int) -> None:
    probabilities, labels = _draw(num_classes, 40, seed)
    probabilities /= probabilities.sum(1, keepdims=True)
    weights = np.random.default_rng(seed).integers(0, 3, (3, len(labels)))
    weights[:, :num_classes] = 1
    for name in compute_metrics(probabilities, labels):
        computed = weighted_metric(name, probabilities, labels, weights.astype(float), positive=0)
        expected = [
            compute_metrics(
                np.repeat(probabilities, row, axis=0), np.repeat(labels, row), positive=0
            )[name]
            for row in weights
        ]
        np.testing.assert_allclose(computed, expected, err_msg=name)


def test_every_partition_leaves_each_image_out_once() -> None:
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(40), 3))
    labels, folds = groups % 4 // 3, groups % 2
    weights = leave_part_out_weights(
        groups, strata=(labels, folds), num_parts=5, num_resamples=12, rng=rng
    )
    # Rounded up to three whole partitions.
    assert weights.shape == (15, 120)
    for partition in np.split(1 - weights, 3):
        np.testing.assert_array_equal(partition.sum(axis=0), 1)
    for group in range(40):
        assert (np.ptp(weights[:, groups == group], axis=1) == 0).all()
    # Ten groups have label 1: two of them are left out each time.
    np.testing.assert_array_equal((1 - weights)[:, labels == 1].sum(axis=1), 6)
    assert not np.array_equal(weights[:5], weights[5:10])
