"""The proof is worth what its comparison notices."""

from typing import Any

import pytest

from tests.compatibility.comparison import changes

OLD = {"trials": [{"auc": 0.8, "folds": 3, "seconds": 1.5, "state": None}], "name": "a"}


def _found(new: Any, permitted: dict[str, str] | None = None) -> list[str]:
    return list(changes(OLD, new, permitted or {}))


def test_the_same_and_what_was_added_are_no_changes() -> None:
    assert _found(OLD) == []
    trial = OLD["trials"][0] | {"new": 1}  # type: ignore[operator]
    assert _found({"trials": [trial], "name": "a", "more": {}}) == []
    assert list(changes(float("nan"), float("nan"), {})) == []


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"trials": OLD["trials"]}, "name is missing; it was"),
        (OLD | {"name": "b"}, 'name was "a" and is "b"'),
        (OLD | {"trials": []}, "trials was"),
        (OLD | {"trials": {}}, "trials was"),
        (OLD | {"trials": None}, "trials was"),
        ({"trials": [{"auc": 0.8000000000000002, "folds": 3, "seconds": 1.5, "state": None}],
          "name": "a"}, "trials > 0 > auc was 0.8 and is 0.8000000000000002"),
        ({"trials": [{"auc": 0.8, "folds": 3.0, "seconds": 1.5, "state": None}], "name": "a"},
         "trials > 0 > folds was 3 and is 3.0"),
        ({"trials": [{"auc": 0.8, "folds": 3, "seconds": 1.5}], "name": "a"},
         "trials > 0 > state is missing"),
    ],
)  # fmt: skip
def test_a_missing_or_other_value_is_a_change(new: Any, said: str) -> None:
    (line,) = _found(new)
    assert said in line


def test_a_permitted_difference_must_still_be_there() -> None:
    permitted = {"* > seconds": "a clock"}
    other = {"trials": [OLD["trials"][0] | {"seconds": 9.0}], "name": "a"}  # type: ignore[operator]
    assert _found(other)
    assert _found(other, permitted) == []
    gone = {"trials": [{"auc": 0.8, "folds": 3, "state": None}], "name": "a"}
    (line,) = _found(gone, permitted)
    assert "seconds is missing" in line
