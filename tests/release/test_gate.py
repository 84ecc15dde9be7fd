import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.gate import NOW, POINT, Rule, Test, in_a_row
from busi_search.home import Home
from busi_search.models import evaluations
from busi_search.models.registry import RegisteredVersion
from busi_search.release import comparison
from busi_search.release.comparison import (
    AgainstChampion,
    Difference,
    auc_parts,
    difference_error,
    paired_difference,
    rivals,
)
from busi_search.release.gate_rule import auc_bound, judge, luck_of_the_best
from busi_search.spec import Gate

FIGURES = {"auc": 0.88, "auc_low": 0.8, "auc_high": 0.93, "sensitivity": 0.7, "ece": 0.05,
           "num_images": 120, "num_positive": 33}  # fmt: skip


def _difference(auc: float, standard_error: float = 0.025) -> Difference:
    return Difference(auc, (auc - 0.05, auc + 0.05), 0.5, standard_error)


def _drift(rule: Rule) -> float:
    rng = np.random.default_rng(0)
    moved = [
        in_a_row(Test(rng, 120, 33, 0.8), rule, change=-0.02, num_candidates=10)[0]
        for _ in range(120)
    ]
    return float(np.mean(moved))


def test_ten_worse_candidates_in_a_row_hardly_move_the_champion() -> None:
    """The errors of the means are .0007 and .0022."""
    assert _drift(NOW) > -0.01
    assert _drift(POINT) < -0.03


def test_the_bound_decides_not_the_point_estimate() -> None:
    gate = Gate(max_auc_drop=0.02)
    equal = judge(FIGURES, [AgainstChampion("3", _difference(0.0))], gate, openings=2)
    assert len(equal.refusals) == 1
    assert "-0.041 at worst" in equal.refusals[0]
    better = judge(FIGURES, [AgainstChampion("3", _difference(0.022))], gate, openings=2)
    assert better.refusals == ()
    # The old rule is still to be had.
    old = Gate(confidence=0.5)
    assert judge(FIGURES, [AgainstChampion("3", _difference(-0.019))], old, openings=2) == replace(
        judge(FIGURES, [AgainstChampion("3", _difference(-0.019))], old, openings=2), refusals=()
    )
    assert judge(FIGURES, [AgainstChampion("3", _difference(-0.021))], old, openings=2).refusals


def test_the_answer_says_what_it_is_worth() -> None:
    found = judge(FIGURES, [AgainstChampion("3", _difference(0.03))], Gate(), openings=4)
    evidence = found.evidence
    assert evidence["best_champion"] == "3"
    assert evidence["difference"] == 0.03
    assert evidence["bound"] == pytest.approx(0.03 - 1.6449 * 0.025, abs=1e-4)
    assert (evidence["margin"], evidence["openings"], evidence["budget"]) == (0.02, 4, 10)
    # ((1.645 + .842) x .025 / .02) ^ 2 = 9.66 times as many.
    assert evidence["images_needed"] == 1160
    text = " ".join(found.notes)
    assert "120 test images (33 malignant)" in text
    assert "1,200" in text
    assert "opened 4 of 10 times" in text
    assert f"{luck_of_the_best(0.025, 4):.3f} too high" in text
    clear = judge(FIGURES, [AgainstChampion("3", _difference(0.1))], Gate(), openings=4)
    assert "shown to be better" in clear.notes[0]
    many = judge(
        {**FIGURES, "num_images": 5000}, [AgainstChampion("3", _difference(0, 0.004))], Gate(),
        openings=1,
    )  # fmt: skip
    assert many.refusals == ()
    assert "are enough" in many.notes[0]


def test_the_largest_of_some_normal_values() -> None:
    rng = np.random.default_rng(0)
    for number in (1, 3, 11):
        largest = rng.normal(size=(20_000, number)).max(axis=1).mean()
        assert luck_of_the_best(np.sqrt(2), number) == pytest.approx(largest, abs=0.03)


def test_a_spent_test_promotes_only_what_is_shown_to_be_better() -> None:
    same = AgainstChampion("3", _difference(0.0, 0.0))
    assert judge(FIGURES, [same], Gate(max_openings=5), openings=5).refusals == ()
    spent = judge(FIGURES, [same], Gate(max_openings=5), openings=6)
    assert "must be shown to be better" in spent.refusals[0]
    assert "it is spent" in spent.notes[1]
    better = AgainstChampion("3", _difference(0.05))
    assert judge(FIGURES, [better], Gate(max_openings=5), openings=6).refusals == ()


def test_the_first_champion_needs_a_floor_too() -> None:
    good = judge(FIGURES, [], Gate(), openings=1)
    assert good.refusals == ()
    assert "95 % interval 0.800 to 0.930" in good.notes[0]
    chance = {**FIGURES, "auc": 0.5, "auc_low": 0.4, "auc_high": 0.6, "sensitivity": 0.0}
    auc, sensitivity = judge(chance, [], Gate(), openings=1).refusals
    assert "as low as 0.416" in auc
    assert "sensitivity" in sensitivity
    none = Gate(min_auc=0, min_sensitivity=0)
    assert judge(chance, [], none, openings=1).refusals == ()
    assert judge(FIGURES, [], Gate(min_auc=0.85), openings=1).refusals


@pytest.mark.parametrize(("low", "value", "high"), [(1.0, 1.0, 1.0), (0.7, 0.9, 1.0), (0, 0, 0.1)])
def test_a_bound_at_the_edge_is_the_interval_s(low: float, value: float, high: float) -> None:
    figures = {"auc": value, "auc_low": low, "auc_high": high}
    assert auc_bound(figures, 0.95) == low
    assert auc_bound(figures, 0.5) == value


def test_one_champion_that_is_not_comparable_refuses() -> None:
    compared = [AgainstChampion("2", _difference(0.1)), AgainstChampion("5", "another division")]
    found = judge(FIGURES, compared, Gate(), openings=1)
    assert found.refusals == ("it cannot be compared with version 5: another division",)
    assert found.evidence["best_champion"] == "2"


def test_the_standard_error_is_delong_s_and_that_of_groups() -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([1, 0], [40, 80])
    first, second = (rng.normal(size=120) + labels for _ in range(2))
    rows = [np.column_stack([-scores, scores]) for scores in (first, second)]
    parts = [auc_parts(one, labels, positive=1) for one in rows]
    # DeLong et al. 1988: covariances of the structural components of both models.
    above = [np.mean(s[:40, None] > s[None, 40:], axis=1) for s in (first, second)]
    below = [np.mean(s[:40, None] > s[None, 40:], axis=0) for s in (first, second)]
    expected = np.var(above[0] - above[1], ddof=1) / 40 + np.var(below[0] - below[1], ddof=1) / 80
    alone = difference_error(parts[0], parts[1], np.arange(120))
    assert alone**2 == pytest.approx(expected)
    # Every image twice is no more evidence when the two are one group.
    twice = [np.tile(one, (2, 1)) for one in rows]
    grouped = paired_difference(
        twice[0], twice[1], np.tile(labels, 2), np.tile(np.arange(120), 2), positive=1
    )
    assert grouped.standard_error == pytest.approx(alone, rel=0.02)
    assert AgainstChampion.from_json(AgainstChampion("1", grouped).to_json()).found == grouped


def test_a_comparison_of_before_has_its_error_from_the_interval() -> None:
    stored = {"champion": "2", "comparable": True, "auc_difference": 0.0, "ci95": [-0.05, 0.05],
              "probability_worse": 0.5}  # fmt: skip
    found = AgainstChampion.from_json(stored).found
    assert isinstance(found, Difference)
    assert found.standard_error == pytest.approx(0.0255, abs=1e-4)


def test_the_measure_is_the_best_champion_so_far(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(number: int, auc: float | None, *aliases: str, **tags: str) -> RegisteredVersion:
        kept: dict[str, Any] = {} if auc is None else {evaluations.TEST_FIGURES: json.dumps(
            {**FIGURES, "auc": auc})}  # fmt: skip
        was = {"busi.partition": "here"} | {f"busi.{key}": value for key, value in tags.items()}
        return RegisteredVersion("m", str(number), "run", aliases, {**was, **kept})

    was = {"promoted_at": "before"}
    candidate = version(7, None)
    champion = version(6, 0.88, "champion")

    def measured_by(*others: RegisteredVersion) -> list[str]:
        monkeypatch.setattr(comparison, "list_versions", lambda *_, **__: [candidate, *others])
        return [other.version for other in rivals(home, candidate)]

    assert measured_by(version(5, 0.99)) == []  # never a champion
    assert measured_by(champion, version(5, 0.99)) == ["6"]
    assert measured_by(champion, version(5, 0.87, **was)) == ["6"]
    assert measured_by(champion, version(5, 0.89, **was), version(4, 0.9, **was)) == ["4", "6"]
    # Another sealed test, or none that was opened, measures nothing.
    assert measured_by(champion, version(5, 0.9, **was, partition="there")) == ["6"]
    assert measured_by(champion, version(5, None, **was)) == ["6"]
    # The present champion is asked even where its test AUC is not known.
    assert measured_by(version(6, None, "champion"), version(5, 0.6, **was)) == ["5", "6"]
    monkeypatch.setattr(comparison, "list_versions", lambda *_, **__: [champion])
    assert rivals(home, champion) == []
