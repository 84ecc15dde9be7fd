"""A linear head solved for: L2 logistic regression on standardised features."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

Array = npt.NDArray[np.float64]
Rows = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

# Largest entry of the gradient of the mean loss that counts as zero.
TOLERANCE = 1e-5
MAX_ITERATIONS = 5000
# A feature that varies less than this share of the largest is constant up to rounding.
_CONSTANT = 1e-7


class NotConverged(ArithmeticError):
    """The solver did not come to an end."""


@dataclass(frozen=True)
class Solution:
    """A linear layer on features as they are; the standardisation is part of it.

    Attributes:
        weight: (C, F) float32.
        bias: (C,) float32.
        train_loss: mean cross entropy of the rows it was solved for, without the penalty.
        iterations: of L-BFGS.
    """

    weight: Rows
    bias: Rows
    train_loss: float
    iterations: int


def solve_logistic(
    rows: Rows,
    labels: Indices,
    *,
    num_classes: int,
    l2_strength: float,
    balanced: bool = False,
) -> Solution:
    """Minimise the mean cross entropy plus half the squared weights times ``l2_strength``.

    Features are standardised by the mean and the deviation of these rows. The problem is convex:
    there is one solution, and it is found to a gradient of at most ``TOLERANCE``, by L-BFGS on one
    core, so that the same rows give the same bits.

    Args:
        rows: (M, F) features to learn from; views of one image are rows of their own.
        labels: (M,) their classes.
        num_classes: C.
        l2_strength: of the penalty, above 0.
        balanced: every class counts as much as every other.

    Raises:
        NotConverged: it takes more than ``MAX_ITERATIONS``.
    """
    standard = rows.astype(np.float64)
    mean, deviation = standard.mean(axis=0), standard.std(axis=0)
    constant = deviation <= _CONSTANT * max(float(deviation.max(initial=0.0)), 1e-30)
    scale = np.where(constant, 1.0, deviation)
    standard -= mean
    standard /= scale
    standard[:, constant] = 0.0
    solver = LogisticRegression(
        C=1 / (len(rows) * l2_strength),
        solver="lbfgs",
        tol=TOLERANCE,
        max_iter=MAX_ITERATIONS,
        class_weight="balanced" if balanced else None,
    )
    with threadpool_limits(limits=1):
        solver.fit(standard, labels)
    iterations = int(solver.n_iter_.max())
    if iterations >= MAX_ITERATIONS:
        raise NotConverged(
            f"logistic regression did not converge in {MAX_ITERATIONS} iterations; raise "
            "l2_strength"
        )
    weight, bias = _of_all_classes(solver, num_classes)
    logits = standard @ weight.T + bias
    losses = -log_softmax(logits, axis=1)[np.arange(len(labels)), labels]
    weight /= scale
    bias -= weight @ mean
    return Solution(
        weight.astype(np.float32),
        bias.astype(np.float32),
        train_loss=float(losses.mean()),
        iterations=iterations,
    )


def _of_all_classes(solver: LogisticRegression, num_classes: int) -> tuple[Array, Array]:
    """Return (C, F) weights and (C,) biases; a class without a row is as unlikely as can be."""
    coefficients, intercepts = solver.coef_, solver.intercept_
    if len(coefficients) == 1:
        # Of two classes there is one logit: that of the second against the first.
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    weight = np.zeros((num_classes, coefficients.shape[1]))
    bias = np.full(num_classes, float(intercepts.min()) - 30.0)
    weight[solver.classes_], bias[solver.classes_] = coefficients, intercepts
    return weight, bias
