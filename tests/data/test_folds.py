import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from busi_search.data.folds import (
    large_group_warning,
    make_folds,
    split_sealed_test,
    uneven_folds_warning,
)
from busi_search.errors import InputError


@st.composite
def grouped_labels(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels and groups whose images agree, every class with at least five groups."""
    sizes = [
        draw(st.lists(st.integers(1, 5), min_size=5, max_size=25))
        for _ in range(draw(st.integers(2, 4)))
    ]
    labels = np.concatenate([np.full(sum(s), c) for c, s in enumerate(sizes)])
    groups = np.repeat(np.arange(sum(map(len, sizes))), np.concatenate(sizes))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return labels[order], groups[order]


@settings(deadline=None, max_examples=60)
@given(data=grouped_labels(), num_folds=st.integers(2, 5), seed=st.integers(0, 2**31 - 1))
def test_folds_are_a_grouped_stratified_partition(
    data: tuple[np.ndarray, np.ndarray], num_folds: int, seed: int
) -> None:
    labels, groups = data
    folds = make_folds(labels, groups, num_folds=num_folds, seed=seed)
    assert len(folds) == num_folds
    everything = np.concatenate([fold.validation for fold in folds])
    np.testing.assert_array_equal(np.sort(everything), np.arange(len(labels)))
    for fold in folds:
        np.testing.assert_array_equal(fold.train, np.sort(fold.train))
        np.testing.assert_array_equal(fold.validation, np.sort(fold.validation))
        assert not set(groups[fold.train]) & set(groups[fold.validation])
        assert len(fold.train) + len(fold.validation) == len(labels)
    for label in np.unique(labels):
        held = [int(np.sum(labels[fold.validation] == label)) for fold in folds]
        largest = np.bincount(groups[labels == label]).max()
        assert max(held) - min(held) <= largest


@settings(deadline=None, max_examples=60)
@given(
    data=grouped_labels(),
    fraction=st.floats(0.05, 0.5),
    seed=st.integers(0, 99),
    shuffle=st.integers(0, 99),
)
def test_the_sealed_test_is_grouped_stratified_and_independent_of_order(
    data: tuple[np.ndarray, np.ndarray], fraction: float, seed: int, shuffle: int
) -> None:
    labels, groups = data
    digests = [f"{index:064x}" for index in range(len(labels))]
    test = split_sealed_test(labels, groups, digests, fraction=fraction, seed=seed)
    inside = np.isin(np.arange(len(labels)), test)
    assert not set(groups[inside]) & set(groups[~inside])
    for label in np.unique(labels):
        largest = np.bincount(groups[labels == label]).max()
        share = np.sum(labels[test] == label)
        assert abs(share - fraction * np.sum(labels == label)) <= largest
    order = np.random.default_rng(shuffle).permutation(len(labels))
    again = split_sealed_test(
        labels[order], groups[order] + 1000, [digests[i] for i in order],
        fraction=fraction, seed=seed,
    )  # fmt: skip
    assert set(order[again]) == set(test)


def test_the_seed_decides() -> None:
    labels, groups = np.arange(60) % 3, np.arange(60)
    first, same, other = (make_folds(labels, groups, num_folds=5, seed=s) for s in (1, 1, 2))
    assert all(np.array_equal(a.validation, b.validation) for a, b in zip(first, same, strict=True))
    assert any(
        not np.array_equal(a.validation, b.validation) for a, b in zip(first, other, strict=True)
    )


def test_too_few_groups_are_refused() -> None:
    labels = np.array([0] * 20 + [1] * 20)
    groups = np.array([*range(20), *([50] * 18), 51, 52])
    with pytest.raises(InputError, match="Class 1 has 3"):
        make_folds(labels, groups, num_folds=5, seed=0)


def test_a_large_group_and_the_uneven_folds_it_makes_are_named() -> None:
    labels = np.arange(200) % 2
    groups = np.where(np.arange(200) < 10, 0, np.arange(200))
    assert large_group_warning(groups) is None
    assert uneven_folds_warning(make_folds(labels, groups, num_folds=5, seed=0)) is None
    groups = np.where(np.arange(200) < 80, 0, np.arange(200))
    assert "80 of 200 images (40%)" in (large_group_warning(groups) or "")
    folds = make_folds(labels, groups, num_folds=5, seed=0)
    assert "folds uneven" in (uneven_folds_warning(folds) or "")
