"""What cannot be computed says so: no NaN in text, in JSON or in the gate's judgement."""

import json
import math

import numpy as np
import pytest

from busi_search.cli.actions.shared import print_json
from busi_search.files import without_nan
from busi_search.release.figures import compute_test_figures
from busi_search.release.gate_rule import beyond_limits
from busi_search.release.intervals import Figure, percentiles
from busi_search.release.selection import Estimate, bias_corrected_estimate
from busi_search.spec import Gate


def _figures(labels: list[int], probability_of_malignant: list[float]):
    scores = np.array(probability_of_malignant)
    return compute_test_figures(
        np.stack([1 - scores, scores], axis=1),
        np.array(labels),
        np.arange(len(labels)),
        class_names=("benign", "malignant"),
        positive=1,
        threshold=0.5,
    )


def test_one_malignant_image_has_a_wide_interval() -> None:
    """No longer a sensitivity of 0.000 (0.000 to 0.000)."""
    found = _figures([0] * 20 + [1], [0.1] * 20 + [0.2])
    assert found.sensitivity.value == 0.0
    assert found.sensitivity.ci95 == pytest.approx((0.0, 0.975))
    assert found.specificity.ci95 == pytest.approx((0.025 ** (1 / 20), 1.0))
    assert f"{found.sensitivity:.3f}" == "0.000 (0.000 to 0.975)"
    json.dumps(found.to_json(), allow_nan=False)


def test_a_share_between_keeps_its_bootstrap_interval() -> None:
    found = _figures([0] * 10 + [1] * 10, [0.1] * 10 + [0.9] * 6 + [0.1] * 4)
    low, high = found.sensitivity.ci95
    assert 0 < low < found.sensitivity.value < high < 1


@pytest.mark.parametrize("label", [0, 1])
def test_a_test_of_one_class_gives_dashes(label: int) -> None:
    found = _figures([label] * 8, [0.2] * 8)
    assert f"{found.metrics['auc']:.3f}" == "–"
    printed = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert printed["auc"] is None
    assert printed["auc_ci95"] == [None, None]
    assert printed["specificity" if label else "sensitivity"] is None


def test_an_interval_that_is_not_known_says_so() -> None:
    assert percentiles(np.array([np.nan, np.inf])) == pytest.approx((np.nan,) * 2, nan_ok=True)
    assert "no interval" in f"{Figure(0.5, (math.nan, math.nan)):.3f}"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"auc": None}, "auc cannot be computed"),
        ({"auc": math.nan}, "auc cannot be computed"),
        ({"sensitivity": None}, "sensitivity cannot be computed"),
        ({"auc_low": None}, "no interval"),
        ({"auc_high": math.nan}, "no interval"),
    ],
)
def test_the_gate_promotes_nothing_that_is_not_known(changes: dict, words: str) -> None:
    sound = {"auc": 0.9, "auc_low": 0.8, "auc_high": 0.95, "sensitivity": 0.9, "num_images": 100}
    assert beyond_limits(sound, Gate()) == []
    assert words in beyond_limits(sound | changes, Gate())[0]


def test_many_classes_of_few_images_give_no_nan_in_json(capsys: pytest.CaptureFixture) -> None:
    """Every fold has one image of each of twelve classes: nothing is left to correct with."""
    rng = np.random.default_rng(0)
    labels, folds = np.tile(np.arange(12), 2), np.repeat([0, 1], 12)
    rows = rng.dirichlet(np.ones(12), (3, 24))
    found = bias_corrected_estimate(labels, rows, folds=folds, num_bootstraps=20)
    assert math.isnan(found.value)
    assert Estimate.from_json(found.to_json()).naive == found.naive
    print_json({"corrected": found.value, "more": [found.low, {"x": np.inf}]})
    assert json.loads(capsys.readouterr().out) == {"corrected": None, "more": [None, {"x": None}]}
    assert without_nan({"a": (1, 2.5, "x", None, True)}) == {"a": [1, 2.5, "x", None, True]}
