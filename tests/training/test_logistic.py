"""The head that is solved for, against an independent solution of the same problem."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from busi_search.training.logistic import Solution, solve_logistic


def _problem(num_classes: int, count: int = 120) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(num_classes)
    labels = np.arange(count) % num_classes
    # Features of quite different scales and offsets, more of them than matter.
    rows = rng.normal(size=(count, 9)) + 0.8 * np.eye(9)[labels]
    return (rows * np.logspace(-2, 3, 9) + np.arange(9)).astype(np.float32), labels


def _logits(solution: Solution, rows: np.ndarray) -> np.ndarray:
    return rows.astype(np.float64) @ solution.weight.T + solution.bias


def _reference(
    rows: np.ndarray, labels: np.ndarray, num_classes: int, strength: float, weights: np.ndarray
) -> np.ndarray:
    """Log-probabilities of the minimum, found by another program from the definition."""
    standard = (rows - rows.mean(axis=0, dtype=np.float64)) / rows.std(axis=0, dtype=np.float64)
    design = np.hstack([standard, np.ones((len(rows), 1))])

    def loss(flat: np.ndarray) -> float:
        table = flat.reshape(num_classes, -1)
        own = log_softmax(design @ table.T, axis=1)[np.arange(len(labels)), labels]
        return float(-np.mean(weights * own) + strength / 2 * np.sum(table[:, :-1] ** 2))

    start = np.zeros(num_classes * design.shape[1])
    found = minimize(loss, start, method="BFGS", options={"gtol": 1e-6})
    return log_softmax(design @ found.x.reshape(num_classes, -1).T, axis=1)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_three_classes_are_solved_as_by_another_program(strength: float) -> None:
    rows, labels = _problem(3)
    solution = solve_logistic(rows, labels, num_classes=3, l2_strength=strength)
    expected = _reference(rows, labels, 3, strength, np.ones(len(labels)))
    found = log_softmax(_logits(solution, rows), axis=1)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    mean = -found[np.arange(len(labels)), labels].mean()
    assert solution.train_loss == pytest.approx(mean, abs=1e-4)


def test_two_classes_are_one_logit_as_scikit_learn_has_it() -> None:
    rows, labels = _problem(2)
    solution = solve_logistic(rows, labels, num_classes=2, l2_strength=0.1)
    # Two rows of half the weights: their penalty is half that of the one logit.
    expected = _reference(rows, labels, 2, 0.2, np.ones(len(labels)))
    np.testing.assert_allclose(log_softmax(_logits(solution, rows), axis=1), expected, atol=2e-3)
    np.testing.assert_allclose(solution.weight[0], -solution.weight[1])


def test_balanced_classes_count_the_same() -> None:
    rows, labels = _problem(3)
    few = np.flatnonzero((labels != 2) | (np.arange(len(labels)) < 30))
    rows, labels = rows[few], labels[few]
    weights = (len(labels) / (3 * np.bincount(labels)))[labels]
    solution = solve_logistic(rows, labels, num_classes=3, l2_strength=0.1, balanced=True)
    expected = _reference(rows, labels, 3, 0.1, weights)
    found = log_softmax(_logits(solution, rows), axis=1)
    np.testing.assert_allclose(found, expected, atol=2e-3)
    plain = solve_logistic(rows, labels, num_classes=3, l2_strength=0.1)
    assert np.abs(found - log_softmax(_logits(plain, rows), axis=1)).max() > 0.1


def test_the_same_rows_give_the_same_bits_and_a_scale_does_not_matter() -> None:
    rows, labels = _problem(3)
    first, again, scaled = (
        solve_logistic(x, labels, num_classes=3, l2_strength=0.1)
        for x in (rows, rows.copy(), rows * np.float32(1024))
    )
    np.testing.assert_array_equal(first.weight, again.weight)
    np.testing.assert_array_equal(first.bias, again.bias)
    np.testing.assert_allclose(_logits(scaled, rows * 1024), _logits(first, rows), atol=1e-4)


def test_a_stronger_penalty_means_smaller_weights() -> None:
    rows, labels = _problem(3)
    sizes = [
        np.abs(
            solve_logistic(rows, labels, num_classes=3, l2_strength=s).weight * rows.std(0)
        ).sum()
        for s in (0.001, 0.1, 10.0)
    ]
    assert sizes == sorted(sizes, reverse=True)


def test_constant_features_and_absent_classes_do_no_harm() -> None:
    rows, labels = _problem(2)
    rows[:, 4] = 3.0
    solution = solve_logistic(rows, labels, num_classes=3, l2_strength=0.1)
    assert not solution.weight[:, 4].any()
    probabilities = np.exp(log_softmax(_logits(solution, rows), axis=1))
    assert np.isfinite(probabilities).all()
    assert probabilities[:, 2].max() < 1e-6
