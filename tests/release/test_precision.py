import numpy as np
import pytest

from busi_search.release.delong import delong_interval
from busi_search.release.precision import auc_margin, num_for_auc, num_for_share


def test_the_margin_is_that_of_simulated_tests() -> None:
    rng = np.random.default_rng(0)
    num, share, distance = 300, 0.3, 1.5
    aucs, widths = [], []
    for _ in range(200):
        truth = np.arange(num) < share * num
        scores = 1 / (1 + np.exp(-(rng.normal(size=num) + distance * truth)))
        rows = np.column_stack([1 - scores, scores])
        low, high = delong_interval(rows, truth.astype(int), np.arange(num), positive=1)
        widths.append((high - low) / 2)
        wins = scores[truth][:, None] > scores[~truth][None, :]
        aucs.append(wins.mean())
    expected = auc_margin(float(np.mean(aucs)), num, share)
    assert expected == pytest.approx(np.mean(widths), rel=0.1)
    assert expected == pytest.approx(1.96 * np.std(aucs), rel=0.2)


def test_so_many_patients_are_enough_and_one_less_is_not() -> None:
    for auc in (0.5, 0.8, 0.95):
        for share in (0.1, 0.4):
            num = num_for_auc(auc, 0.03, share)
            assert auc_margin(auc, num, share) <= 0.03 < auc_margin(auc, num - 1, share)


def test_a_share_needs_the_textbook_number() -> None:
    assert num_for_share(0.5, 0.1) == 97
    assert num_for_share(1.0, 0.02) == num_for_share(0.99, 0.02)


@pytest.mark.parametrize(("num", "share"), [(0, 0.5), (10, 0.0), (10, 1.0)])
def test_nobody_or_one_kind_alone_shows_nothing(num: int, share: float) -> None:
    with pytest.raises(ValueError, match="show no AUC"):
        auc_margin(0.8, num, share)
